# Find the Arrow and Parquet C++ libraries inside the pyarrow wheel.
#
# The wheel ships headers and versioned shared objects but no CMake package, so the SONAME is read from
# arrow/util/config.h and each library is imported by its full name. Defines arrow::arrow and arrow::parquet.
if(NOT Python_EXECUTABLE)
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter)
endif()

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.util as u; print(u.find_spec('pyarrow').submodule_search_locations[0])"
  OUTPUT_VARIABLE PyArrow_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE _pyarrow_result)
if(_pyarrow_result)
  message(FATAL_ERROR "pyarrow is not installed for ${Python_EXECUTABLE}: pip install 'pyarrow==26.0.*'")
endif()

file(STRINGS "${PyArrow_DIR}/include/arrow/util/config.h" _config REGEX "define ARROW_(SO_VERSION|VERSION_STRING) ")
string(REGEX MATCH "ARROW_SO_VERSION \"([0-9]+)\"" _ "${_config}")
set(PyArrow_SO_VERSION "${CMAKE_MATCH_1}")
string(REGEX MATCH "ARROW_VERSION_STRING \"([0-9.]+)\"" _ "${_config}")
set(PyArrow_VERSION "${CMAKE_MATCH_1}")

foreach(_name arrow parquet)
  find_library(PyArrow_${_name}_LIBRARY NAMES "lib${_name}.so.${PyArrow_SO_VERSION}" PATHS "${PyArrow_DIR}"
               NO_DEFAULT_PATH REQUIRED)
  if(NOT TARGET arrow::${_name})
    add_library(arrow::${_name} SHARED IMPORTED)
    set_target_properties(
      arrow::${_name}
      PROPERTIES IMPORTED_LOCATION "${PyArrow_${_name}_LIBRARY}" IMPORTED_SONAME
                 "lib${_name}.so.${PyArrow_SO_VERSION}" INTERFACE_INCLUDE_DIRECTORIES "${PyArrow_DIR}/include")
  endif()
endforeach()
set_property(TARGET arrow::parquet PROPERTY INTERFACE_LINK_LIBRARIES arrow::arrow)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(PyArrow REQUIRED_VARS PyArrow_arrow_LIBRARY PyArrow_parquet_LIBRARY
                                  VERSION_VAR PyArrow_VERSION)
