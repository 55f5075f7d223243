#include "arrow_quant/io/safetensors/header.h"

#include <gtest/gtest.h>

#include <limits>

#include "arrow_quant/io/safetensors/test_files.h"

namespace arrow_quant {
namespace {

using testing::SafetensorsBytes;
using Fault = SafetensorsFault;

SafetensorsHeader Parse(const std::string& bytes) {
  return ParseSafetensorsHeader(std::as_bytes(std::span(bytes)), bytes.size());
}

std::string Entry(const std::string& name, const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::string WithLength(std::uint64_t length, std::string_view rest) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<char>((length >> (8 * i)) & 0xFFU);
  return bytes.append(rest);
}

struct Attack {
  std::string name;
  Fault fault;
  std::string bytes;
};

std::vector<Attack> Attacks() {
  const std::string good = Entry("a", "[2]", "[0,8]");
  const std::string data8(8, 'x');
  const auto json = [](const std::string& entries, std::size_t data = 8) {
    return SafetensorsBytes("{" + entries + "}", std::string(data, 'x'));
  };
  std::string deep = "\"a\":{\"extra\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  std::string axes = "[1";
  for (int i = 0; i < 64; ++i) axes += ",1";
  axes += "]";
  return {
      {"Empty", Fault::kFileTooShort, ""},
      {"SevenBytes", Fault::kFileTooShort, "1234567"},
      {"LfsPointer", Fault::kGitLfsPointer, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"},
      {"ZipArchive", Fault::kForeignFormat, std::string("PK\x03\x04\x14\x00\x08\x08", 8) + std::string(40, 'x')},
      {"Gguf", Fault::kForeignFormat, std::string("GGUF\x03\x00\x00\x00", 8) + std::string(40, 'x')},
      {"WebPage", Fault::kForeignFormat, "<!DOCTYPE html><html>Access denied</html>"},
      {"LengthMax", Fault::kHeaderTooLarge, WithLength(std::numeric_limits<std::uint64_t>::max(), "{}")},
      {"LengthSignBit", Fault::kHeaderTooLarge, WithLength(1ULL << 63U, "{}")},
      {"LengthAboveCap", Fault::kHeaderTooLarge, WithLength(100'000'001, "{}")},
      {"LengthPastEnd", Fault::kHeaderPastEnd, WithLength(3, "{}")},
      {"LengthAtCapPastEnd", Fault::kHeaderPastEnd, WithLength(100'000'000, "{}")},
      {"NotUtf8", Fault::kNotUtf8, SafetensorsBytes("{\"\xFF\":1}")},
      {"OverlongUtf8", Fault::kNotUtf8, SafetensorsBytes("{\"\xC0\xAF\":1}")},
      {"SurrogateUtf8", Fault::kNotUtf8, SafetensorsBytes("{\"\xED\xA0\x80\":1}")},
      {"NoJson", Fault::kNotJson, SafetensorsBytes("hello")},
      {"EmptyHeader", Fault::kNotJson, SafetensorsBytes("")},
      {"Unfinished", Fault::kNotJson, SafetensorsBytes("{\"a\":{")},
      {"TrailingComma", Fault::kNotJson, SafetensorsBytes("{" + good + ",}", data8)},
      {"TextAfterObject", Fault::kNotJson, SafetensorsBytes("{" + good + "}x", data8)},
      {"NulInHeader", Fault::kNotJson, SafetensorsBytes(std::string("{}\0{}", 5))},
      {"LoneSurrogateEscape", Fault::kNotJson, SafetensorsBytes("{\"\\ud800\":{}}")},
      {"NumberTooLarge", Fault::kNotJson, json(Entry("a", "[1e999]", "[0,8]"))},
      {"Array", Fault::kNotObject, SafetensorsBytes("[]")},
      {"Number", Fault::kNotObject, SafetensorsBytes("1")},
      {"String", Fault::kNotObject, SafetensorsBytes("\"a\"")},
      {"Null", Fault::kNotObject, SafetensorsBytes("null")},
      {"SpaceBeforeObject", Fault::kNotObject, SafetensorsBytes(" {}")},
      {"ByteOrderMark", Fault::kNotObject, SafetensorsBytes("\xEF\xBB\xBF{}")},
      {"DeepArray", Fault::kNotObject, SafetensorsBytes(std::string(100'000, '['))},
      {"Deep", Fault::kTooDeep, json(deep)},
      {"TensorTwice", Fault::kDuplicateKey, json(good + "," + Entry("a", "[0]", "[8,8]"))},
      {"FieldTwice", Fault::kDuplicateKey,
       json("\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}")},
      {"MetadataTwice", Fault::kDuplicateKey, json("\"__metadata__\":{},\"__metadata__\":{}", 0)},
      {"MetadataKeyTwice", Fault::kDuplicateKey, json("\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}", 0)},
      {"EntryIsNumber", Fault::kBadEntry, json("\"a\":1")},
      {"EntryIsArray", Fault::kBadEntry, json("\"a\":[]")},
      {"EntryIsNull", Fault::kBadEntry, json("\"a\":null")},
      {"NoDtype", Fault::kBadEntry, json("\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}")},
      {"NoShape", Fault::kBadEntry, json("\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}")},
      {"NoOffsets", Fault::kBadEntry, json("\"a\":{\"dtype\":\"F32\",\"shape\":[2]}")},
      {"DtypeIsNumber", Fault::kBadEntry, json("\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}")},
      {"DtypeIsObject", Fault::kBadEntry, json("\"a\":{\"dtype\":{},\"shape\":[2],\"data_offsets\":[0,8]}")},
      {"NameTooLong", Fault::kBadEntry, json(Entry(std::string(1025, 'n'), "[2]", "[0,8]"))},
      {"DtypeUnknown", Fault::kUnknownDtype, json(Entry("a", "[2]", "[0,8]", "F128"))},
      {"DtypeLowerCase", Fault::kUnknownDtype, json(Entry("a", "[2]", "[0,8]", "f32"))},
      {"DtypeF4", Fault::kUnknownDtype, json(Entry("a", "[16]", "[0,8]", "F4"))},
      {"DtypeF6", Fault::kUnknownDtype, json(Entry("a", "[8]", "[0,6]", "F6_E2M3"))},
      {"DtypeE8M0", Fault::kUnknownDtype, json(Entry("a", "[8]", "[0,8]", "F8_E8M0"))},
      {"ShapeIsNumber", Fault::kBadShape, json(Entry("a", "2", "[0,8]"))},
      {"ShapeIsNull", Fault::kBadShape, json(Entry("a", "null", "[0,8]"))},
      {"ShapeNegative", Fault::kBadShape, json(Entry("a", "[-2]", "[0,8]"))},
      {"ShapeMinusZero", Fault::kBadShape, json(Entry("a", "[-0]", "[0,0]"))},
      {"ShapeFraction", Fault::kBadShape, json(Entry("a", "[2.0]", "[0,8]"))},
      {"ShapeString", Fault::kBadShape, json(Entry("a", "[\"2\"]", "[0,8]"))},
      {"ShapeNested", Fault::kBadShape, json(Entry("a", "[[2]]", "[0,8]"))},
      {"ShapeRank65", Fault::kBadShape, json(Entry("a", axes, "[0,4]"))},
      {"ShapeProductOverflow", Fault::kShapeOverflow, json(Entry("a", "[4294967296,4294967296]", "[0,8]"))},
      {"ShapeBytesOverflow", Fault::kShapeOverflow, json(Entry("a", "[2305843009213693952]", "[0,8]"))},
      {"ShapeAxisOverflow", Fault::kShapeOverflow, json(Entry("a", "[18446744073709551615]", "[0,8]"))},
      {"ShapeAxisHuge", Fault::kShapeOverflow, json(Entry("a", "[99999999999999999999]", "[0,8]"))},
      {"ShapeOverflowBehindZero", Fault::kShapeOverflow,
       json(Entry("a", "[0,9223372036854775807,9223372036854775807]", "[0,0]"))},
      {"OffsetsReversed", Fault::kBadOffsets, json(Entry("a", "[2]", "[8,0]"))},
      {"OffsetNegative", Fault::kBadOffsets, json(Entry("a", "[2]", "[-8,0]"))},
      {"OffsetFraction", Fault::kBadOffsets, json(Entry("a", "[2]", "[0,8.0]"))},
      {"OffsetsOne", Fault::kBadOffsets, json(Entry("a", "[2]", "[8]"))},
      {"OffsetsThree", Fault::kBadOffsets, json(Entry("a", "[2]", "[0,8,8]"))},
      {"OffsetsEmpty", Fault::kBadOffsets, json(Entry("a", "[2]", "[]"))},
      {"OffsetsObject", Fault::kBadOffsets, json(Entry("a", "[2]", "{}"))},
      {"DataPastEnd", Fault::kOffsetsPastEnd, json(Entry("a", "[3]", "[0,12]"))},
      {"OffsetHuge", Fault::kOffsetsPastEnd, json(Entry("a", "[2]", "[0,18446744073709551615]"))},
      {"OffsetAboveU64", Fault::kOffsetsPastEnd, json(Entry("a", "[2]", "[0,99999999999999999999]"))},
      {"SpanTooLong", Fault::kSizeMismatch, json(Entry("a", "[1]", "[0,8]"))},
      {"SpanTooShort", Fault::kSizeMismatch, json(Entry("a", "[4]", "[0,8]"))},
      {"Overlap", Fault::kOverlap, json(good + "," + Entry("b", "[2]", "[4,12]"), 12)},
      {"SameSpan", Fault::kOverlap, json(good + "," + Entry("b", "[2]", "[0,8]"))},
      {"EmptyInside", Fault::kOverlap, json(good + "," + Entry("b", "[0]", "[4,4]"))},
      {"HoleAtStart", Fault::kHole, json(Entry("a", "[2]", "[4,12]"), 12)},
      {"HoleBetween", Fault::kHole, json(good + "," + Entry("b", "[1]", "[12,16]"), 16)},
      {"HoleAtEnd", Fault::kHole, json(good, 9)},
      {"MetadataIsArray", Fault::kBadMetadata, json("\"__metadata__\":[]", 0)},
      {"MetadataIsString", Fault::kBadMetadata, json("\"__metadata__\":\"pt\"", 0)},
      {"MetadataNumber", Fault::kBadMetadata, json("\"__metadata__\":{\"a\":1}", 0)},
      {"MetadataNested", Fault::kBadMetadata, json("\"__metadata__\":{\"a\":{}}", 0)},
  };
}

class SafetensorsAttack : public ::testing::TestWithParam<Attack> {};

TEST_P(SafetensorsAttack, GivesItsFault) {
  const SafetensorsHeader header = Parse(GetParam().bytes);
  EXPECT_EQ(SafetensorsFaultName(header.fault), SafetensorsFaultName(GetParam().fault)) << header.detail;
  EXPECT_FALSE(header.detail.empty());
  EXPECT_TRUE(header.tensors.empty());
}

INSTANTIATE_TEST_SUITE_P(Headers, SafetensorsAttack, ::testing::ValuesIn(Attacks()),
                         [](const auto& test) { return test.param.name; });

TEST(SafetensorsHeader, EveryFaultHasAnAttack) {
  for (int fault = 1; fault <= static_cast<int>(Fault::kBadMetadata); ++fault) {
    const std::vector<Attack> attacks = Attacks();
    EXPECT_TRUE(std::any_of(attacks.begin(), attacks.end(), [&](const Attack& attack) {
      return attack.fault == static_cast<Fault>(fault);
    })) << SafetensorsFaultName(static_cast<Fault>(fault));
  }
}

TEST(SafetensorsHeader, EveryPrefixOfAValidFileGivesAFault) {
  const std::string bytes = testing::SafetensorsNamed({"a", "b"});
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(Parse(bytes.substr(0, size)).ok()) << size;
  EXPECT_TRUE(Parse(bytes).ok());
}

TEST(SafetensorsHeader, TensorsComeByOffsetWithPlacesFromTheStartOfTheFile) {
  const std::string json = "{" + Entry("z", "[2]", "[4,12]") + "," + Entry("a", "[]", "[0,4]") + "}";
  const SafetensorsHeader header = Parse(SafetensorsBytes(json, std::string(12, 'x')));
  ASSERT_TRUE(header.ok()) << header.detail;
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_TRUE(header.tensors[0].shape.empty());
  EXPECT_EQ(header.tensors[0].num_elements, 1);
  EXPECT_EQ(header.tensors[1].offset, static_cast<std::int64_t>(8 + json.size() + 4));
  EXPECT_EQ(header.tensors[1].num_bytes, 8);
  EXPECT_EQ(header.header_bytes, 8 + json.size());
}

TEST(SafetensorsHeader, ZeroSizeTensorsAndScalarsStay) {
  const std::vector<testing::TestTensor> tensors = {
      {.name = "empty", .shape = {0}}, {.name = "rows", .shape = {2, 0}}, {.name = "scalar", .shape = {}}};
  const SafetensorsHeader header = Parse(testing::SafetensorsOf(tensors));
  ASSERT_TRUE(header.ok()) << header.detail;
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].num_elements, 0);
  EXPECT_EQ(header.tensors[1].shape, (std::vector<std::int64_t>{2, 0}));
  EXPECT_EQ(header.tensors[2].num_elements, 1);
}

TEST(SafetensorsHeader, EveryKnownDtypeIsRead) {
  for (int i = 0; i <= static_cast<int>(DType::kC64); ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto size = static_cast<std::int64_t>(ByteSize(dtype));
    const SafetensorsHeader header = Parse(testing::SafetensorsOf(
        {{.name = "a", .dtype = std::string(SafetensorsName(dtype)), .shape = {3}, .bytes_per_element = size}}));
    ASSERT_TRUE(header.ok()) << header.detail;
    EXPECT_EQ(header.tensors[0].dtype, dtype);
    EXPECT_EQ(header.tensors[0].num_bytes, 3 * size);
  }
}

TEST(SafetensorsHeader, MetadataMayBeMissingEmptyOrNull) {
  for (const std::string metadata : {"", "\"__metadata__\":{}", "\"__metadata__\":null"}) {
    const SafetensorsHeader header = Parse(SafetensorsBytes("{" + metadata + "}"));
    EXPECT_TRUE(header.ok()) << metadata << ": " << header.detail;
    EXPECT_TRUE(header.metadata.empty());
  }
  const SafetensorsHeader header = Parse(SafetensorsBytes(R"({"__metadata__":{"format":"pt","n":"Größe"}})"));
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.metadata.at("n"), "Größe");
}

TEST(SafetensorsHeader, PaddingAndUnknownFieldsAreAllowed) {
  const std::string entry = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"note":[{"x":1}]})";
  const SafetensorsHeader header = Parse(SafetensorsBytes("{" + entry + "}     ", "12345678"));
  EXPECT_TRUE(header.ok()) << header.detail;
}

TEST(SafetensorsHeader, TheFaultNamesTheTensor) {
  const SafetensorsHeader header = Parse(SafetensorsBytes("{" + Entry("x.weight", "[2]", "[8,0]") + "}", "12345678"));
  EXPECT_EQ(header.tensor, "x.weight");
}

}  // namespace
}  // namespace arrow_quant
