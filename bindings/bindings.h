#pragma once

#include <nanobind/nanobind.h>

namespace arrow_quant {

// One function per area; module.cc calls them all.
void BindAllocation(nanobind::module_& m);
void BindConfig(nanobind::module_& m);
void BindParquet(nanobind::module_& m);
void BindRounding(nanobind::module_& m);
void BindSpatial(nanobind::module_& m);
void BindStatistics(nanobind::module_& m);
void BindTimeAware(nanobind::module_& m);

}  // namespace arrow_quant
