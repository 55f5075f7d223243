#include "arrow_quant/model/source.h"

#include <algorithm>
#include <array>
#include <set>
#include <system_error>
#include <utility>

#include "arrow_quant/base/error.h"
#include "arrow_quant/io/checkpoint_layout.h"
#include "arrow_quant/io/json_internal.h"
#include "arrow_quant/model/architecture.h"
#include "arrow_quant/model/file_survey.h"
#include "arrow_quant/model/prequantized.h"

namespace arrow_quant {
namespace {

namespace fs = std::filesystem;

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string ReadIfThere(const fs::path& path) { return Exists(path) ? ReadTextFile(path) : std::string(); }

struct WeightFormats {
  bool safetensors = false;
  bool parquet = false;
};

WeightFormats FormatsIn(const fs::path& directory) {
  WeightFormats formats;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with('.')) continue;
    formats.safetensors = formats.safetensors || ParseWeightFileName(name).has_value();
    formats.parquet = formats.parquet || (name.ends_with(".parquet") && name != "calibration.parquet");
  }
  return formats;
}

bool HasOnlyParquet(const fs::path& directory) {
  const WeightFormats formats = FormatsIn(directory);
  return formats.parquet && !formats.safetensors;
}

void RefuseQuantized(const PrequantizedScan& scan, const fs::path& path) {
  if (scan.method.empty()) return;
  throw Error(ErrorCode::kUnsupported,
              "the model is already quantized: " + scan.method + ", as " + scan.evidence + " shows",
              {.file = path.string(), .remedy = "Give the original float model."});
}

SourceComponent MakeComponent(std::string name, std::string directory, const fs::path& where, Checkpoint checkpoint) {
  std::string config = ReadIfThere(where / "config.json");
  PrequantizedScan scan = ScanForQuantization(config, checkpoint.tensors());
  RefuseQuantized(scan, where);
  std::string class_name = ReadArchitecture(config, {}, (where / "config.json").string()).class_name;
  return {.name = std::move(name),
          .directory = std::move(directory),
          .class_name = std::move(class_name),
          .config_json = std::move(config),
          .checkpoint = std::move(checkpoint),
          .scale_for = std::move(scan.scale_for)};
}

void AddFiles(ModelSource& source) {
  std::set<fs::path> used;
  std::set<std::string> directories;
  for (const SourceComponent& component : source.components) {
    directories.insert(component.directory);
    for (const CheckpointFile& file : component.checkpoint.files()) used.insert(file.path.lexically_normal());
    const fs::path& index = component.checkpoint.index_path();
    if (!index.empty()) used.insert(index.lexically_normal());
  }
  // Weights beside a pipeline's model_index.json are another form of the same model.
  if (source.kind == SourceKind::kPipeline) directories.insert("");
  FileSurvey survey = SurveyFiles(source.root, used, directories);
  source.other_files = std::move(survey.other_files);
  source.skipped_files = std::move(survey.skipped_files);
}

void ReadRootTexts(ModelSource& source) {
  source.config_json = ReadIfThere(source.root / "config.json");
  source.metadata_json = ReadIfThere(source.root / "metadata.json");
  source.pipeline_json = ReadIfThere(source.root / "model_index.json");
}

ModelSource ResolveParquet(const fs::path& root) {
  ModelSource source;
  source.root = root;
  source.kind = SourceKind::kParquet;
  ReadRootTexts(source);
  FileSurvey survey = SurveyFiles(root, {}, {});
  source.other_files = std::move(survey.other_files);
  std::erase_if(survey.skipped_files, [](const SkippedFile& file) {
    return file.path.ends_with(".parquet") && !file.path.ends_with("calibration.parquet");
  });
  source.skipped_files = std::move(survey.skipped_files);
  return source;
}

// A lone file says nothing about the files around it; only a configuration beside it is taken.
ModelSource ResolveFile(const fs::path& path) {
  ModelSource source;
  source.kind = SourceKind::kFile;
  source.root = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  Checkpoint checkpoint = Checkpoint::OpenFile(path);
  source.config_json = ReadIfThere(source.root / "config.json");
  source.metadata_json = ReadIfThere(source.root / "metadata.json");
  for (const char* name : {"config.json", "metadata.json"}) {
    if (Exists(source.root / name)) source.other_files.emplace_back(name);
  }
  source.components.push_back(MakeComponent("", "", source.root, std::move(checkpoint)));
  return source;
}

ModelSource ResolveModelDirectory(const fs::path& root, Checkpoint checkpoint) {
  ModelSource source;
  source.root = root;
  source.kind = SourceKind::kModel;
  ReadRootTexts(source);
  source.components.push_back(MakeComponent("", "", root, std::move(checkpoint)));
  AddFiles(source);
  return source;
}

struct PipelinePart {
  std::string name;
  std::string class_name;
};

// The components that model_index.json lists with a class.
std::vector<PipelinePart> PipelineParts(const nlohmann::json& index, const fs::path& file) {
  if (!index.is_object()) {
    throw Error(ErrorCode::kCorruptFile, "not a JSON object", {.file = file.string(), .remedy = "Download it again."});
  }
  std::vector<PipelinePart> parts;
  for (const auto& [name, value] : index.items()) {
    if (name.starts_with('_') || !value.is_array() || value.size() != 2 || !value[1].is_string()) continue;
    if (name.empty() || name.find_first_of("/\\") != std::string::npos || name == "." || name == "..") {
      throw Error(ErrorCode::kCorruptFile, "the component '" + name + "' leads out of its directory",
                  {.file = file.string(), .remedy = "Do not trust this file."});
    }
    parts.push_back({name, value[1].get<std::string>()});
  }
  return parts;
}

// The parts that run once per step: by their usual names, or by their class (a decoder of Stable Cascade is a UNet).
bool IsDenoiser(const PipelinePart& part) {
  constexpr std::array<std::string_view, 6> kNames = {"unet",  "transformer", "transformer_2",
                                                      "prior", "image_unet",  "text_unet"};
  constexpr std::array<std::string_view, 6> kClasses = {
      "UNet", "Unet", "Transformer2DModel", "Transformer3DModel", "DiTModel", "DiT2DModel"};
  if (std::find(kNames.begin(), kNames.end(), part.name) != kNames.end()) return true;
  return std::any_of(kClasses.begin(), kClasses.end(),
                     [&](std::string_view text) { return part.class_name.find(text) != std::string::npos; });
}

std::string ListNames(const std::vector<PipelinePart>& parts) {
  std::string text;
  for (const PipelinePart& part : parts) text += (text.empty() ? "" : ", ") + part.name;
  return text;
}

std::vector<PipelinePart> ChooseParts(const std::vector<PipelinePart>& parts, const std::vector<std::string>& wanted,
                                      const fs::path& root) {
  std::vector<PipelinePart> chosen;
  for (const std::string& name : wanted) {
    const auto found = std::find_if(parts.begin(), parts.end(), [&](const PipelinePart& p) { return p.name == name; });
    if (found == parts.end()) {
      throw Error(ErrorCode::kConfiguration, "the pipeline has no component '" + name + "'",
                  {.file = root.string(), .remedy = "Choose among: " + ListNames(parts) + "."});
    }
    const bool again = std::any_of(chosen.begin(), chosen.end(), [&](const PipelinePart& p) { return p.name == name; });
    if (!again) chosen.push_back(*found);
  }
  if (wanted.empty()) std::copy_if(parts.begin(), parts.end(), std::back_inserter(chosen), IsDenoiser);
  if (chosen.empty()) {
    throw Error(ErrorCode::kUnsupported, "the pipeline has no component that is known to be a denoiser",
                {.file = root.string(), .remedy = "Choose components among: " + ListNames(parts) + "."});
  }
  return chosen;
}

SourceComponent OpenPart(const fs::path& root, const PipelinePart& part, const SourceOptions& options) {
  const fs::path directory = root / part.name;
  if (!Exists(directory)) {
    throw Error(ErrorCode::kModelNotFound,
                "model_index.json names the component '" + part.name + "', but it is missing",
                {.file = directory.string(), .remedy = "Download the whole pipeline."});
  }
  SourceComponent component =
      MakeComponent(part.name, part.name, directory, Checkpoint::OpenDirectory(directory, options.variant));
  if (component.class_name.empty()) component.class_name = part.class_name;
  return component;
}

ModelSource ResolvePipeline(const fs::path& root, const SourceOptions& options) {
  ModelSource source;
  source.root = root;
  source.kind = SourceKind::kPipeline;
  ReadRootTexts(source);
  const fs::path file = root / "model_index.json";
  const std::vector<PipelinePart> parts =
      PipelineParts(ParseJson(source.pipeline_json, file.string(), kPythonJson), file);
  const std::vector<PipelinePart> chosen = ChooseParts(parts, options.components, root);
  for (const PipelinePart& part : chosen) {
    if (HasOnlyParquet(root / part.name)) return ResolveParquet(root);
  }
  for (const PipelinePart& part : chosen) source.components.push_back(OpenPart(root, part, options));
  AddFiles(source);
  return source;
}

// Names directories one level below that hold weights, for the message that there are none here.
std::string DirectoriesWithWeights(const fs::path& root) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored) && FormatsIn(it->path()).safetensors) names.insert(it->path().filename().string());
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

ModelSource ResolveDirectory(const fs::path& root, const SourceOptions& options) {
  if (Exists(root / "model_index.json")) return ResolvePipeline(root, options);
  if (!options.components.empty()) {
    throw Error(ErrorCode::kConfiguration, "components can only be chosen in a pipeline, which has a model_index.json",
                {.file = root.string(), .remedy = "Leave the option components out."});
  }
  const WeightFormats formats = FormatsIn(root);
  if (formats.parquet && !formats.safetensors) return ResolveParquet(root);
  const std::string below = formats.safetensors ? std::string() : DirectoriesWithWeights(root);
  if (!below.empty()) {
    throw Error(ErrorCode::kModelNotFound, "no weights are in this directory, but in its directories " + below,
                {.file = root.string(), .remedy = "Give one of them, or add the pipeline's model_index.json."});
  }
  return ResolveModelDirectory(root, Checkpoint::OpenDirectory(root, options.variant));
}

[[noreturn]] void ThrowNoSuchPath(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_symlink(fs::symlink_status(path, ignored))) {
    throw Error(ErrorCode::kModelNotFound,
                "the symbolic link points to '" + fs::read_symlink(path, ignored).string() + "', which does not exist",
                {.file = path.string(), .remedy = "Download the model again, or repair the link."});
  }
  throw Error(ErrorCode::kModelNotFound, "no such file or directory",
              {.file = path.string(), .remedy = "Check the path; a model from a hub must be downloaded first."});
}

}  // namespace

std::string_view SourceKindName(SourceKind kind) {
  constexpr std::array<std::string_view, 4> kNames = {"file", "model", "pipeline", "parquet"};
  return kNames[static_cast<std::size_t>(kind)];
}

ModelSource ResolveModel(const fs::path& path, const SourceOptions& options) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) ThrowNoSuchPath(path);
  if (fs::is_directory(status)) return ResolveDirectory(path, options);
  const std::string name = path.filename().string();
  const fs::path parent = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  if (name == "model_index.json") return ResolvePipeline(parent, options);
  if (!options.components.empty()) {
    throw Error(ErrorCode::kConfiguration, "components can only be chosen in a pipeline, not in one file",
                {.file = path.string(), .remedy = "Leave the option components out."});
  }
  if (name.ends_with(".json")) return ResolveModelDirectory(parent, Checkpoint::OpenIndex(path));
  if (name.ends_with(".parquet")) return ResolveParquet(parent);
  return ResolveFile(path);
}

ModalityDecision DetectModality(const ModelSource& source, std::optional<Modality> configured) {
  ModalityEvidence evidence;
  evidence.configured = configured;
  evidence.metadata_json = source.metadata_json;
  evidence.pipeline_json = source.pipeline_json;
  evidence.config_json = source.config_json;
  evidence.model_path = source.root.string();
  if (!source.components.empty()) {
    const SourceComponent& first = source.components.front();
    evidence.safetensors_metadata = first.checkpoint.metadata();
    evidence.tensors = first.checkpoint.tensors();
    if (!first.config_json.empty()) evidence.config_json = first.config_json;
  }
  return DetectModality(evidence);
}

}  // namespace arrow_quant
