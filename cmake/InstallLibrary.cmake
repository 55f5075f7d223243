# Install the C++ library (component cpp): headers, the archive and the package ArrowQuant. The wheel takes the
# component python alone.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# What a program includes, and what those headers include.
set(_public_headers
    base/aligned_buffer.h
    base/cpu_isa.h
    base/dtype.h
    base/error.h
    base/matrix_view.h
    calibrate/activation_statistics.h
    calibrate/column_moments.h
    calibrate/input_statistics.h
    calibrate/time_groups.h
    io/parquet/legacy.h
    io/parquet/manifest.h
    io/parquet/model_reader.h
    io/parquet/tensor_record.h
    io/tensor_info.h
    kernels/kernel_table.h
    kernels/kernels.h
    linalg/second_moment.h
    model/modality.h
    orchestrate/config.h
    orchestrate/diffusion_orchestrator.h
    orchestrate/model_calibration.h
    orchestrate/model_options.h
    orchestrate/quantize_model.h
    orchestrate/report.h
    orchestrate/saved_plan.h
    quantize/affine_grid.h
    quantize/quantized_matrix.h
    quantize/rounding/rounding.h)
foreach(_header ${_public_headers})
  get_filename_component(_folder "${_header}" DIRECTORY)
  install(FILES "${PROJECT_SOURCE_DIR}/cpp/arrow_quant/${_header}"
          DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/arrow_quant/${_folder}" COMPONENT cpp)
endforeach()
install(FILES "${PROJECT_BINARY_DIR}/generated/arrow_quant/base/version.h"
        DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/arrow_quant/base" COMPONENT cpp)

set(_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/ArrowQuant")
install(TARGETS arrow_quant EXPORT ArrowQuantTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT cpp)
install(EXPORT ArrowQuantTargets NAMESPACE ArrowQuant:: DESTINATION "${_package_dir}" COMPONENT cpp)
configure_package_config_file(cmake/ArrowQuantConfig.cmake.in "${PROJECT_BINARY_DIR}/generated/ArrowQuantConfig.cmake"
                              INSTALL_DESTINATION "${_package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/generated/ArrowQuantConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
# The find modules go beside it: a program links the same libraries, out of its own Python's wheels.
install(FILES "${PROJECT_BINARY_DIR}/generated/ArrowQuantConfig.cmake"
              "${PROJECT_BINARY_DIR}/generated/ArrowQuantConfigVersion.cmake" cmake/FindPyArrow.cmake
              cmake/FindScipyOpenBLAS.cmake
        DESTINATION "${_package_dir}" COMPONENT cpp)
