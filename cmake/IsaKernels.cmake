# One object per instruction set from the bodies in cpp/arrow_quant/kernels.
#
# arrow_quant_isa_kernels(TARGET) adds every kernels/*_avx2.cc with -mavx2 -mfma -mf16c and every kernels/*_avx512.cc
# with the AVX-512 flags. Contraction is off everywhere so that all instruction sets give the same codes.
function(arrow_quant_isa_kernels target)
  file(GLOB _avx2 CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cpp/arrow_quant/kernels/*_avx2.cc")
  file(GLOB _avx512 CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/cpp/arrow_quant/kernels/*_avx512.cc")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set_source_files_properties(${_avx2} PROPERTIES COMPILE_OPTIONS "-mavx2;-mf16c")
    set_source_files_properties(${_avx512} PROPERTIES COMPILE_OPTIONS
                                "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mf16c;-mprefer-vector-width=512")
    target_sources(${target} PRIVATE ${_avx2} ${_avx512})
    target_compile_definitions(${target} PRIVATE ARROW_QUANT_X86=1)
  endif()
endfunction()
