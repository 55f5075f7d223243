#pragma once

#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "arrow_quant/calibrate/activation_statistics.h"
#include "arrow_quant/io/parquet/array_file.h"

namespace arrow_quant {

// Writes activation statistics to one Parquet file: a row group per input (upper triangles of the second moments,
// moments per channel and timestep, held-out rows), and as JSON the layers, the time groups and `facts`, an object of
// the caller's (fingerprints of model and samples). Layers may come part by part, so that not all inputs are in memory
// at once.
class StatisticsWriter {
 public:
  // Throws Error kIo.
  explicit StatisticsWriter(const std::filesystem::path& path);
  ~StatisticsWriter();

  // Inputs and layers after those that came before. Throws Error kIo, kShapeMismatch for other time groups or other
  // options than those of the first part.
  void Append(const ActivationStatistics& part);
  // Makes the file appear. Throws Error kIo, kInvalidArgument where `facts` is no JSON object or no part came.
  void Close(std::string_view facts, const std::vector<double>& sensitivity = {});

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// All at once.
void WriteStatistics(const ActivationStatistics& statistics, std::string_view facts, const std::filesystem::path& path);

// Statistics in such a file, read input by input when a layer asks for them.
class StatisticsFile final : public StatisticsSource {
 public:
  // Throws Error kModelNotFound, kCorruptFile.
  explicit StatisticsFile(const std::filesystem::path& path);

  const TimeGroups& time_groups() const override { return groups_; }
  LayerInputs Find(const LayerKey& layer) const override;
  std::vector<LayerKey> SharingInput(const LayerKey& layer) const override { return LayersSharing(layers_, layer); }
  const std::vector<double>& sensitivity() const override { return sensitivity_; }
  bool keeps_groups() const override { return options_.keep_groups; }
  const std::map<LayerKey, std::vector<int>>& layers() const { return layers_; }
  // The caller's object, as JSON text.
  const std::string& facts() const { return facts_; }
  int size() const { return reader_.size(); }
  // Of the file's bytes. Throws Error kIo.
  std::string Checksum() const;
  std::shared_ptr<const InputStatistics> Input(int i) const;

 private:
  std::shared_ptr<const InputStatistics> Load(int i) const;

  std::string name_;
  ArrayFileReader reader_;
  TimeGroups groups_;
  StatisticsOptions options_;
  std::vector<std::int64_t> channels_;
  std::map<LayerKey, std::vector<int>> layers_;
  std::string facts_;
  std::vector<double> sensitivity_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<int, std::weak_ptr<const InputStatistics>> loaded_;
  mutable std::deque<std::shared_ptr<const InputStatistics>> recent_;  // layers that share an input follow each other
};

}  // namespace arrow_quant
