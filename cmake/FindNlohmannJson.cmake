# Find the header-only JSON library of the nlohmann-json wheel. Defines nlohmann::json.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.util as u; print(u.find_spec('nlohmann_json').submodule_search_locations[0])"
  OUTPUT_VARIABLE _nlohmann_dir OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _nlohmann_result)
if(_nlohmann_result)
  message(FATAL_ERROR "nlohmann-json is not installed for ${Python_EXECUTABLE}")
endif()
find_path(NlohmannJson_INCLUDE_DIR nlohmann/json.hpp PATHS "${_nlohmann_dir}/include" NO_DEFAULT_PATH REQUIRED)
if(NOT TARGET nlohmann::json)
  add_library(nlohmann::json INTERFACE IMPORTED)
  target_include_directories(nlohmann::json INTERFACE "${NlohmannJson_INCLUDE_DIR}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NlohmannJson REQUIRED_VARS NlohmannJson_INCLUDE_DIR)
