# The project's warnings; errors only where ARROW_QUANT_WERROR is on (preset dev).
add_library(arrow_quant_warnings INTERFACE)
target_compile_options(
  arrow_quant_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                 -Wnon-virtual-dtor -Woverloaded-virtual $<$<BOOL:${ARROW_QUANT_WERROR}>:-Werror>)
