#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "arrow_quant/orchestrate/config.h"
#include "arrow_quant/orchestrate/config_fields.h"
#include "bindings.h"

namespace nb = nanobind;

namespace arrow_quant {

// The configuration as JSON texts: Python takes names, defaults and ranges from here.
void BindConfig(nb::module_& m) {
  m.def(
      "config_fields", [] { return ConfigFieldsJson(); },
      "JSON array with one object per configuration key, in order: name, type, group, doc, expectation, env, "
      "has_effect, pattern, words, numbers, minimum, maximum, above_minimum, defaults (by profile).");
  m.def(
      "config_from_profile", [](std::string_view name) { return DiffusionQuantConfig::FromProfile(name).ToJson(); },
      nb::arg("name"), "The defaults of 'edge', 'local', 'cloud' or 'base' as a JSON object; ConfigurationError else.");
  m.def(
      "validate_config",
      [](std::string_view json, std::string_view profile) {
        return DiffusionQuantConfig::FromJson(json, profile).ToJson();
      },
      nb::arg("json"), nb::arg("profile") = "",
      "Check a JSON object and return it with every key, in the table's order. Missing keys take the defaults of "
      "`profile`, or of the object's own deployment_profile. ConfigurationError names key, value and what is allowed.");
}

}  // namespace arrow_quant
