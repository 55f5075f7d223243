#include "arrow_quant/io/checkpoint.h"

#include <gtest/gtest.h>

#include <functional>

#include "arrow_quant/io/checkpoint_layout.h"
#include "arrow_quant/io/safetensors/test_files.h"

namespace arrow_quant {
namespace {

using testing::IndexOf;
using testing::SafetensorsNamed;
using testing::TempDirectory;

// Runs `open`, which must throw `code` with all of `parts` in the message.
void ExpectError(ErrorCode code, const std::vector<std::string>& parts, const std::function<void()>& open) {
  try {
    open();
  } catch (const Error& error) {
    EXPECT_EQ(ErrorCodeName(error.code()), ErrorCodeName(code)) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " is not in: " << error.what();
    }
    return;
  }
  ADD_FAILURE() << "no error";
}

std::vector<std::string> Names(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorInfo& info : checkpoint.tensors()) names.push_back(info.name);
  return names;
}

using NameList = std::vector<std::string>;

// Two shards and an index that agrees.
void WriteSharded(const TempDirectory& dir) {
  dir.Write("model-00001-of-00002.safetensors", SafetensorsNamed({"b", "a"}));
  dir.Write("model-00002-of-00002.safetensors", SafetensorsNamed({"c"}));
  dir.Write("model.safetensors.index.json", IndexOf({{"c", "model-00002-of-00002.safetensors"},
                                                     {"a", "model-00001-of-00002.safetensors"},
                                                     {"b", "model-00001-of-00002.safetensors"}}));
}

TEST(WeightFileName, IsTakenApart) {
  const auto plain = ParseWeightFileName("diffusion_pytorch_model.fp16.safetensors");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->stem, "diffusion_pytorch_model");
  EXPECT_EQ(plain->variant, "fp16");
  for (const char* name : {"model.fp16-00002-of-00003.safetensors", "model-00002-of-00003.fp16.safetensors"}) {
    const auto shard = ParseWeightFileName(name);
    ASSERT_TRUE(shard);
    EXPECT_EQ(shard->stem, "model");
    EXPECT_EQ(shard->variant, "fp16");
    EXPECT_EQ(shard->shard, 2);
    EXPECT_EQ(shard->shard_count, 3);
  }
  for (const char* name : {"model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"}) {
    const auto index = ParseWeightFileName(name);
    ASSERT_TRUE(index);
    EXPECT_TRUE(index->is_index);
    EXPECT_EQ(index->variant, "fp16");
  }
  EXPECT_EQ(ParseWeightFileName("wan2.1_t2v_1.3B_bf16.safetensors")->stem, "wan2.1_t2v_1.3B_bf16");
  EXPECT_EQ(ParseWeightFileName("model-00009-of-00003.safetensors")->shard, 0);
  EXPECT_FALSE(ParseWeightFileName("._model.safetensors"));
  EXPECT_FALSE(ParseWeightFileName("config.json"));
}

TEST(Checkpoint, AFileGivesItsTensorsByOffset) {
  const TempDirectory dir;
  const auto path = dir.Write("x.safetensors", SafetensorsNamed({"b", "a"}));
  const Checkpoint checkpoint = Checkpoint::OpenFile(path);
  EXPECT_EQ(Names(checkpoint), (NameList{"b", "a"}));
  EXPECT_EQ(checkpoint.total_bytes(), 32);
  ASSERT_NE(checkpoint.Find("a"), nullptr);
  EXPECT_EQ(checkpoint.Find("z"), nullptr);
  EXPECT_EQ(checkpoint.Data(*checkpoint.Find("a")).front(), std::byte{2});
  checkpoint.Prefetch(*checkpoint.Find("a"));
  checkpoint.Release(*checkpoint.Find("a"));
  EXPECT_EQ(checkpoint.Data(*checkpoint.Find("a")).front(), std::byte{2});
}

TEST(Checkpoint, ShardsComeInTheOrderOfTheirNames) {
  const TempDirectory dir;
  WriteSharded(dir);
  for (const Checkpoint& checkpoint :
       {Checkpoint::OpenDirectory(dir.path()), Checkpoint::OpenIndex(dir / "model.safetensors.index.json")}) {
    EXPECT_EQ(Names(checkpoint), (NameList{"b", "a", "c"}));
    EXPECT_EQ(checkpoint.files().size(), 2U);
    EXPECT_EQ(checkpoint.Find("c")->file_index, 1);
    EXPECT_EQ(checkpoint.Data(*checkpoint.Find("c")).size(), 16U);
    EXPECT_EQ(checkpoint.index_path(), dir / "model.safetensors.index.json");
  }
}

TEST(Checkpoint, TiedWeightsKeepBothNames) {
  const TempDirectory dir;
  const std::string bytes = SafetensorsNamed({"embed.weight", "lm_head.weight"});
  EXPECT_EQ(Names(Checkpoint::OpenFile(dir.Write("x.safetensors", bytes))).size(), 2U);
}

TEST(Checkpoint, AMissingShardIsNamed) {
  const TempDirectory dir;
  WriteSharded(dir);
  std::filesystem::remove(dir / "model-00002-of-00002.safetensors");
  ExpectError(ErrorCode::kCorruptFile, {"missing", "model-00002-of-00002.safetensors"},
              [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, AnIndexedTensorThatItsShardLacksIsNamed) {
  const TempDirectory dir;
  WriteSharded(dir);
  dir.Write("model-00002-of-00002.safetensors", SafetensorsNamed({}));
  ExpectError(ErrorCode::kCorruptFile, {"tensor 'c'", "lacks"}, [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, ATensorThatTheIndexLacksIsNamed) {
  const TempDirectory dir;
  WriteSharded(dir);
  dir.Write("model-00002-of-00002.safetensors", SafetensorsNamed({"c", "extra"}));
  ExpectError(ErrorCode::kCorruptFile, {"tensor 'extra'", "index"}, [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, ATensorInTwoShardsIsNamed) {
  const TempDirectory dir;
  WriteSharded(dir);
  dir.Write("model-00002-of-00002.safetensors", SafetensorsNamed({"c", "a"}));
  ExpectError(ErrorCode::kCorruptFile, {"tensor 'a'", "model-00001-of-00002.safetensors"},
              [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, ShardsWithoutAnIndexMustBeComplete) {
  const TempDirectory dir;
  WriteSharded(dir);
  std::filesystem::remove(dir / "model.safetensors.index.json");
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(dir.path())).size(), 3U);
  std::filesystem::remove(dir / "model-00001-of-00002.safetensors");
  ExpectError(ErrorCode::kCorruptFile, {"shard 1 of 2"}, [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, OneShardAloneIsRefused) {
  const TempDirectory dir;
  WriteSharded(dir);
  ExpectError(ErrorCode::kInvalidArgument, {"one of 2 shards"},
              [&] { Checkpoint::OpenFile(dir / "model-00001-of-00002.safetensors"); });
}

TEST(Checkpoint, ShardsOfTwoCountsAreTwoCheckpoints) {
  const TempDirectory dir;
  dir.Write("model-00001-of-00001.safetensors", SafetensorsNamed({"a"}));
  dir.Write("model-00001-of-00002.safetensors", SafetensorsNamed({"a"}));
  dir.Write("model-00002-of-00002.safetensors", SafetensorsNamed({"b"}));
  ExpectError(ErrorCode::kInvalidArgument, {"several"}, [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, TwoCheckpointsInOneFolderAreNamed) {
  const TempDirectory dir;
  dir.Write("first.safetensors", SafetensorsNamed({"a"}));
  dir.Write("second.safetensors", SafetensorsNamed({"a"}));
  ExpectError(ErrorCode::kInvalidArgument, {"first.safetensors", "second.safetensors"},
              [&] { Checkpoint::OpenDirectory(dir.path()); });
}

TEST(Checkpoint, AVariantChooses) {
  const TempDirectory dir;
  dir.Write("model.safetensors", SafetensorsNamed({"full"}));
  dir.Write("model.fp16.safetensors", SafetensorsNamed({"half"}));
  ExpectError(ErrorCode::kInvalidArgument, {"model.fp16.safetensors", "model.safetensors"},
              [&] { Checkpoint::OpenDirectory(dir.path()); });
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(dir.path(), "fp16")), NameList{"half"});
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(dir.path(), "")), NameList{"full"});
  ExpectError(ErrorCode::kInvalidArgument, {"'bf16'", "model.fp16.safetensors"},
              [&] { Checkpoint::OpenDirectory(dir.path(), "bf16"); });
}

TEST(Checkpoint, TheOnlyVariantNeedsNoChoice) {
  const TempDirectory dir;
  dir.Write("model.fp16.safetensors", SafetensorsNamed({"half"}));
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(dir.path())), NameList{"half"});
}

TEST(Checkpoint, AnIndexChoosesAmongOtherFiles) {
  const TempDirectory dir;
  WriteSharded(dir);
  dir.Write("consolidated.safetensors", SafetensorsNamed({"other"}));
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(dir.path())).size(), 3U);
}

TEST(Checkpoint, TwoIndexesNeedAVariant) {
  const TempDirectory dir;
  WriteSharded(dir);
  dir.Write("model.fp16-00001-of-00001.safetensors", SafetensorsNamed({"half"}));
  dir.Write("model.safetensors.index.fp16.json", IndexOf({{"half", "model.fp16-00001-of-00001.safetensors"}}));
  ExpectError(ErrorCode::kInvalidArgument, {"several"}, [&] { Checkpoint::OpenDirectory(dir.path()); });
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(dir.path(), "fp16")), NameList{"half"});
}

TEST(Checkpoint, PicklesAreNeverOpened) {
  const TempDirectory dir;
  dir.Write("pytorch_model.bin", "x");
  dir.Write("old.ckpt", "x");
  ExpectError(ErrorCode::kUnsupported, {"pytorch_model.bin", "old.ckpt", "save_pretrained"},
              [&] { Checkpoint::OpenDirectory(dir.path()); });
  ExpectError(ErrorCode::kUnsupported, {"save_pretrained"}, [&] { Checkpoint::OpenFile(dir / "old.ckpt"); });
  dir.Write("pytorch_model.bin.index.json", IndexOf({{"a", "pytorch_model-00001-of-00001.bin"}}));
  ExpectError(ErrorCode::kUnsupported, {"pickled"},
              [&] { Checkpoint::OpenIndex(dir / "pytorch_model.bin.index.json"); });
}

TEST(Checkpoint, GgufAndNothingAreNamed) {
  const TempDirectory dir;
  ExpectError(ErrorCode::kModelNotFound, {dir.path().string()}, [&] { Checkpoint::OpenDirectory(dir.path()); });
  ExpectError(ErrorCode::kModelNotFound, {"gone"}, [&] { Checkpoint::OpenDirectory(dir / "gone"); });
  dir.Write("x.gguf", "GGUF");
  ExpectError(ErrorCode::kUnsupported, {"GGUF"}, [&] { Checkpoint::OpenDirectory(dir.path()); });
}

struct BadIndex {
  std::string name;
  std::string json;
};

class HostileIndex : public ::testing::TestWithParam<BadIndex> {};

TEST_P(HostileIndex, IsRefused) {
  const TempDirectory dir;
  dir.Write("model.safetensors", SafetensorsNamed({"a"}));
  const auto path = dir.Write("model.safetensors.index.json", GetParam().json);
  ExpectError(ErrorCode::kCorruptFile, {"index.json"}, [&] { Checkpoint::OpenIndex(path); });
}

INSTANTIATE_TEST_SUITE_P(
    Files, HostileIndex,
    ::testing::Values(BadIndex{"Empty", ""}, BadIndex{"NotJson", "{"}, BadIndex{"Array", "[]"},
                      BadIndex{"NoWeightMap", "{}"}, BadIndex{"WeightMapIsArray", R"({"weight_map":[]})"},
                      BadIndex{"WeightMapIsEmpty", R"({"weight_map":{}})"},
                      BadIndex{"ShardIsNumber", R"({"weight_map":{"a":1}})"},
                      BadIndex{"ShardIsEmpty", R"({"weight_map":{"a":""}})"},
                      BadIndex{"Parent", R"({"weight_map":{"a":"../model.safetensors"}})"},
                      BadIndex{"InnerParent", R"({"weight_map":{"a":"x/../../model.safetensors"}})"},
                      BadIndex{"BackslashParent", R"({"weight_map":{"a":"..\\model.safetensors"}})"},
                      BadIndex{"Absolute", R"({"weight_map":{"a":"/etc/passwd"}})"},
                      BadIndex{"Drive", R"({"weight_map":{"a":"C:\\model.safetensors"}})"},
                      BadIndex{"NulInName", R"({"weight_map":{"a":"model.safetensors\u0000"}})"},
                      BadIndex{"TensorTwice", R"({"weight_map":{"a":"model.safetensors","a":"model.safetensors"}})"},
                      BadIndex{"NotUtf8", "{\"weight_map\":{\"\xFF\":\"model.safetensors\"}}"},
                      BadIndex{"Deep", std::string(200'000, '[')},
                      BadIndex{"DeepWeightMap", "{\"weight_map\":" + std::string(200'000, '[')},
                      BadIndex{"LfsPointer", "version https://git-lfs.github.com/spec/v1\n"}),
    [](const auto& test) { return test.param.name; });

TEST(Checkpoint, SymbolicLinksAreFollowedAndDanglingOnesNamed) {
  const TempDirectory dir;
  dir.Write("blobs/0123", SafetensorsNamed({"a"}));
  std::filesystem::create_directories(dir / "snapshots/größe 1");
  const auto link = dir / "snapshots/größe 1/model.safetensors";
  std::filesystem::create_symlink("../../blobs/0123", link);
  EXPECT_EQ(Names(Checkpoint::OpenDirectory(link.parent_path())), NameList{"a"});
  std::filesystem::remove(dir / "blobs/0123");
  ExpectError(ErrorCode::kModelNotFound, {"blobs/0123"}, [&] { Checkpoint::OpenDirectory(link.parent_path()); });
}

TEST(Checkpoint, MetadataOfFilesAndIndexAreMerged) {
  const TempDirectory dir;
  dir.Write("s.safetensors", testing::SafetensorsOf({{.name = "a", .shape = {2}}}, R"({"format":"pt"})"));
  const auto index =
      dir.Write("s.safetensors.index.json",
                R"({"metadata":{"modality":"audio","total_size":8},"weight_map":{"a":"s.safetensors"}})");
  const Checkpoint checkpoint = Checkpoint::OpenIndex(index);
  EXPECT_EQ(checkpoint.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"modality", "audio"}}));
}

TEST(Checkpoint, TheFingerprintFollowsTheContent) {
  const TempDirectory dir;
  const auto path = dir.Write("m.safetensors", SafetensorsNamed({"a"}));
  const std::uint64_t before = Checkpoint::OpenFile(path).Fingerprint();
  EXPECT_EQ(Checkpoint::OpenFile(path).Fingerprint(), before);
  const Checkpoint open = Checkpoint::OpenFile(path);
  EXPECT_TRUE(open.ChangedFiles().empty());
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::seconds(2));
  EXPECT_NE(Checkpoint::OpenFile(path).Fingerprint(), before);
  EXPECT_EQ(open.ChangedFiles(), std::vector{path});
}

}  // namespace
}  // namespace arrow_quant
