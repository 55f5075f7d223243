# One test program per C++ module, from the *_test.cc beside the code.
find_package(GTest REQUIRED)
include(GoogleTest)
file(GLOB_RECURSE _tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cpp/arrow_quant/*_test.cc")
add_executable(arrow_quant_tests ${_tests})
target_link_libraries(arrow_quant_tests PRIVATE arrow_quant arrow_quant_warnings arrow::parquet arrow::arrow
                                                scipy::openblas nlohmann::json GTest::gtest_main)
gtest_discover_tests(arrow_quant_tests DISCOVERY_TIMEOUT 60)
