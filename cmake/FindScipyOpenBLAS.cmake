# Find the OpenBLAS that the scipy-openblas32 wheel carries (symbols prefixed scipy_). Defines scipy::openblas.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.util as u; print(u.find_spec('scipy_openblas32').submodule_search_locations[0])"
  OUTPUT_VARIABLE ScipyOpenBLAS_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _openblas_result)
if(_openblas_result)
  message(FATAL_ERROR "scipy-openblas32 is not installed for ${Python_EXECUTABLE}")
endif()
find_library(ScipyOpenBLAS_LIBRARY NAMES scipy_openblas PATHS "${ScipyOpenBLAS_DIR}/lib" NO_DEFAULT_PATH REQUIRED)
if(NOT TARGET scipy::openblas)
  add_library(scipy::openblas SHARED IMPORTED)
  set_target_properties(
    scipy::openblas PROPERTIES IMPORTED_LOCATION "${ScipyOpenBLAS_LIBRARY}" IMPORTED_SONAME libscipy_openblas.so
                               INTERFACE_INCLUDE_DIRECTORIES "${ScipyOpenBLAS_DIR}/include")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ScipyOpenBLAS REQUIRED_VARS ScipyOpenBLAS_LIBRARY)
