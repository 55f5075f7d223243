#include "arrow_quant/model/keep_list.h"

#include <algorithm>
#include <array>
#include <utility>

#include "arrow_quant/base/error.h"

namespace arrow_quant {
namespace {

// Ends of a network have few channels: a grey or colour picture, a latent, with a mask beside it.
constexpr std::int64_t kMaxEndChannels = 16;
constexpr std::int64_t kMaxUnnamedEndChannels = 4;

bool IsTransposedByName(const std::string& name) {
  constexpr std::array<std::string_view, 5> kWords = {"conv_transpose", "convtranspose", "ConvTranspose", "deconv",
                                                      "transposed_conv"};
  return std::any_of(kWords.begin(), kWords.end(),
                     [&](std::string_view word) { return name.find(word) != std::string::npos; });
}

// Classes of diffusers whose transposed convolutions have a name that says nothing.
bool IsTransposedOf(const std::string& class_name, const std::string& name) {
  using Row = std::pair<std::string_view, std::string_view>;
  constexpr std::array kRows = {Row{"UNet1DModel", ".upsample.conv.weight"},
                                Row{"UVit2DModel", ".upsample.conv.weight"},
                                Row{"Kandinsky3UNet", ".up_sample.weight"}};
  return std::any_of(kRows.begin(), kRows.end(),
                     [&](const Row& row) { return class_name == row.first && name.ends_with(row.second); });
}

std::string SizeReason(const MatrixShape& matrix, std::int64_t min_columns, std::int64_t min_elements) {
  const std::string shape = std::to_string(matrix.rows) + "x" + std::to_string(matrix.cols);
  if (matrix.cols < min_columns) {
    return "too small: as a matrix it is " + shape + ", fewer than " + std::to_string(min_columns) + " columns";
  }
  if (matrix.rows * matrix.cols < min_elements) {
    return "too small: as a matrix it is " + shape + ", fewer than " + std::to_string(min_elements) + " weights";
  }
  return {};
}

std::vector<NamePattern> Compile(const std::vector<std::string>& texts, std::string_view option) {
  std::vector<NamePattern> patterns;
  patterns.reserve(texts.size());
  for (const std::string& text : texts) patterns.emplace_back(text, option);
  return patterns;
}

}  // namespace

const NamePattern* KeepList::FirstMatch(const std::vector<NamePattern>& patterns, const std::string& name) {
  const auto found =
      std::find_if(patterns.begin(), patterns.end(), [&](const NamePattern& pattern) { return pattern.Matches(name); });
  return found == patterns.end() ? nullptr : &*found;
}

KeepList::KeepList(const KeepOptions& options)
    : min_columns_(options.min_columns),
      min_elements_(options.min_elements),
      keep_(Compile(options.keep_patterns, "keep_patterns")),
      quantize_(Compile(options.quantize_patterns, "quantize_patterns")),
      transposed_(Compile(options.transposed_patterns, "transposed_patterns")) {}

void KeepList::ApplyUserAndSize(const TensorInfo& info, std::string_view keep_reason, TensorDecision& decision) const {
  if (const NamePattern* pattern = FirstMatch(keep_, info.name)) {
    decision.reason = "keep pattern '" + pattern->text() + "'";
    return;
  }
  if (const NamePattern* pattern = FirstMatch(quantize_, info.name)) {
    decision.quantize = true;
    decision.reason = "quantize pattern '" + pattern->text() + "'";
    return;
  }
  decision.reason = keep_reason.empty() ? SizeReason(decision.matrix, min_columns_, min_elements_) : keep_reason;
  if (!decision.reason.empty()) return;
  decision.quantize = true;
  decision.reason = LayerRoleName(decision.role);
}

TensorDecision KeepList::DecideOne(const TensorInfo& info, const Architecture& architecture) const {
  const RoleDecision role = ClassifyTensor(info.name, info.shape, info.dtype, architecture.family);
  TensorDecision decision{.quantize = false, .role = role.role, .reason = {}, .matrix = MatrixViewOf(info.shape)};
  if (!IsFloat(info.dtype)) {
    decision.reason = role.keep_reason;
  } else if (info.num_elements == 0) {
    decision.reason = "no elements";
  } else if (info.shape.size() < 2) {
    decision.reason = role.keep_reason.empty() ? "fewer than two axes" : role.keep_reason;
  } else {
    const bool expert = role.role == LayerRole::kExpert && info.shape.size() == 3;
    const bool transposed =
        !expert && (FirstMatch(transposed_, info.name) != nullptr ||
                    (info.shape.size() >= 3 &&
                     (IsTransposedByName(info.name) || IsTransposedOf(architecture.class_name, info.name))));
    decision.matrix = MatrixViewOf(info.shape, transposed, expert);
    ApplyUserAndSize(info, role.keep_reason, decision);
  }
  return decision;
}

void KeepList::KeepEnd(std::span<const TensorInfo> tensors, std::size_t axis, std::optional<std::int64_t> channels,
                       LayerRole role, std::vector<TensorDecision>& decisions) const {
  std::size_t candidate = tensors.size();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<std::int64_t>& shape = tensors[i].shape;
    if (shape.size() < 3) continue;
    const bool named = decisions[i].role == role || decisions[i].role == LayerRole::kPositionEmbedding;
    if (named) return;  // a name has told already
    if (!decisions[i].quantize || decisions[i].role == LayerRole::kExpert) continue;
    const bool fits = channels ? shape[axis] == *channels && *channels <= kMaxEndChannels
                               : shape[axis] <= kMaxUnnamedEndChannels && shape[axis] < shape[1 - axis];
    if (!fits) continue;
    if (candidate != tensors.size()) return;  // two fit: neither is the end for certain
    candidate = i;
  }
  if (candidate == tensors.size() || FirstMatch(quantize_, tensors[candidate].name) != nullptr) return;
  decisions[candidate].quantize = false;
  decisions[candidate].role = role;
  decisions[candidate].reason = role == LayerRole::kFirstLayer
                                    ? "first layer: the only convolution with the model's input channels"
                                    : "final layer: the only convolution with the model's output channels";
}

std::vector<TensorDecision> KeepList::Decide(std::span<const TensorInfo> tensors,
                                             const Architecture& architecture) const {
  std::vector<TensorDecision> decisions;
  decisions.reserve(tensors.size());
  for (const TensorInfo& info : tensors) decisions.push_back(DecideOne(info, architecture));
  const auto& in = architecture.in_channels;
  KeepEnd(tensors, 1, in, LayerRole::kFirstLayer, decisions);
  KeepEnd(tensors, 0, architecture.out_channels ? architecture.out_channels : in, LayerRole::kFinalLayer, decisions);
  return decisions;
}

std::vector<std::string> KeepList::UnmatchedPatterns(std::span<const TensorInfo> tensors) const {
  std::vector<std::string> unmatched;
  for (const auto* patterns : {&keep_, &quantize_, &transposed_}) {
    for (const NamePattern& pattern : *patterns) {
      const bool fits = std::any_of(tensors.begin(), tensors.end(),
                                    [&](const TensorInfo& info) { return pattern.Matches(info.name); });
      if (!fits) unmatched.push_back(pattern.text());
    }
  }
  return unmatched;
}

}  // namespace arrow_quant
