"""Check the direction of includes and imports between the project's modules.

C++ modules include only modules to their left:

    base <- numeric <- kernels <- linalg <- {calibrate, quantize} <- validate <- orchestrate <- bindings
    base <- io <- model <- orchestrate

Besides: only io/ includes Arrow and Parquet, only linalg/ includes BLAS and LAPACK, and a file that is compiled for one
instruction set reaches no header with inline functions of its own (the linker might keep that copy for every CPU).
In Python only arrow_quant_v2/torch imports torch and what needs torch at module level. Headers that are installed
include only headers that are installed.

Usage: check_layers.py [ROOT]. Prints one line per violation and exits 1 when there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Every module that a module may include, besides itself.
_NUMERIC = frozenset({"base"})
_KERNELS = _NUMERIC | {"numeric"}
_LINALG = _KERNELS | {"kernels"}
_SCHEME = _LINALG | {"linalg"}
_VALIDATE = _SCHEME | {"calibrate", "quantize"}
_ORCHESTRATE = _VALIDATE | {"validate", "io", "model"}
ALLOWED_MODULES: dict[str, frozenset[str]] = {
    "base": frozenset(),
    "numeric": _NUMERIC,
    "kernels": _KERNELS,
    "linalg": _LINALG,
    "calibrate": _SCHEME,
    "quantize": _SCHEME,
    "validate": _VALIDATE,
    "runtime": _VALIDATE,
    "io": frozenset({"base"}),
    "model": frozenset({"base", "io"}),
    "orchestrate": _ORCHESTRATE,
    "bindings": _ORCHESTRATE | {"orchestrate", "runtime"},
}

ARROW_HEADER = re.compile(r"^(arrow|parquet)/")
BLAS_HEADER = re.compile(r"(^|/)(cblas|lapack|lapacke|openblas_config|f77blas)\w*\.h$|^(openblas|scipy_openblas)")

# What a file compiled for one instruction set may reach: no inline functions but the compiler's intrinsics.
ISA_SYSTEM_HEADERS = frozenset({"cstdint", "cstddef", "immintrin.h"})
# Plain structs and function pointers only.
ISA_POD_HEADERS = frozenset({"arrow_quant/kernels/kernel_table.h"})
ISA_SOURCE = re.compile(r"_(avx2|avx512)\.cc$")

# Importing any of these imports torch, or takes as long.
TORCH_PACKAGES = frozenset({"torch", "diffusers", "transformers", "accelerate", "datasets", "arrow_quant_v2.torch"})

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)

INSTALL_FILE = "cmake/InstallLibrary.cmake"
INSTALL_LIST = re.compile(r"set\(_public_headers\s+([^)]*)\)")
GENERATED_HEADERS = {"arrow_quant/base/version.h"}


@dataclass(frozen=True)
class Violation:
    """One include or import that the rules forbid; `path` is relative to the root."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Include:
    """One #include line: the header's name and whether it is quoted."""

    header: str
    line: int
    quoted: bool

    @property
    def module(self) -> str | None:
        """Module of a project header, None for any other."""
        parts = self.header.split("/")
        return parts[1] if parts[0] == "arrow_quant" and len(parts) > 2 else None


def read_includes(path: Path) -> list[Include]:
    """List the includes of a C++ file; those in comments do not count."""
    blank = lambda match: re.sub(r"[^\n]", " ", match.group())  # noqa: E731
    text = _COMMENT.sub(blank, path.read_text(encoding="utf-8"))
    return [
        Include(match.group(2), text.count("\n", 0, match.start()) + 1, match.group(1) == '"')
        for match in _INCLUDE.finditer(text)
    ]


def module_of(path: Path, root: Path) -> str | None:
    """Module that a C++ file belongs to: its folder under cpp/arrow_quant, or "bindings"."""
    parts = path.relative_to(root).parts
    if parts[0] == "bindings":
        return "bindings"
    return parts[2] if parts[:2] == ("cpp", "arrow_quant") and len(parts) > 3 else None


def check_direction(path: Path, root: Path, includes: list[Include]) -> Iterator[Violation]:
    """Yield includes of modules that the file's module may not know."""
    relative = path.relative_to(root)
    module = module_of(path, root)
    if module not in ALLOWED_MODULES:
        yield Violation(relative, 1, f"module '{module}' is not in ALLOWED_MODULES of tools/check_layers.py")
        return
    for include in includes:
        target = include.module
        if target is not None and target != module and target not in ALLOWED_MODULES[module]:
            yield Violation(relative, include.line, f"{module}/ must not include {target}/ ({include.header})")
        if ARROW_HEADER.match(include.header) and module != "io":
            yield Violation(relative, include.line, f"only io/ includes Arrow and Parquet ({include.header})")
        if BLAS_HEADER.search(include.header) and module != "linalg":
            yield Violation(relative, include.line, f"only linalg/ includes BLAS and LAPACK ({include.header})")


def check_isa_source(source: Path, root: Path) -> Iterator[Violation]:
    """Yield headers that a file compiled for one instruction set reaches, directly or not, and must not."""
    pending, seen = [source], {source}
    while pending:
        path = pending.pop()
        for include in read_includes(path):
            header = include.header
            if header in ISA_SYSTEM_HEADERS:
                continue
            target = root / "cpp" / header
            if header not in ISA_POD_HEADERS and not (include.quoted and header.endswith("-inl.h")):
                message = f"{source.name} is compiled for one instruction set and must not reach {header}"
                yield Violation(path.relative_to(root), include.line, message)
            elif target.exists() and target not in seen:
                seen.add(target)
                pending.append(target)


def module_level_imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that run when the module is imported: not in functions, not under TYPE_CHECKING."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


def imported_names(node: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    """Absolute dotted names that an import statement in `package` may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package[: len(package) - node.level + 1] if node.level else []
    prefix = ".".join([*base, *([node.module] if node.module else [])])
    return [prefix, *(f"{prefix}.{alias.name}" for alias in node.names)]


def check_python(path: Path, root: Path) -> Iterator[Violation]:
    """Yield module-level imports of torch outside arrow_quant_v2/torch."""
    relative = path.relative_to(root)
    package = list(relative.parent.parts[1:])
    if package[:2] == ["arrow_quant_v2", "torch"]:
        return
    for node in module_level_imports(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for name in imported_names(node, package):
            if any(name == heavy or name.startswith(heavy + ".") for heavy in TORCH_PACKAGES):
                message = f"only arrow_quant_v2/torch imports {name} at module level; import it in the function"
                yield Violation(relative, node.lineno, message)
                break


def check_installed(root: Path) -> Iterator[Violation]:
    """Yield includes of installed headers that are not installed themselves."""
    listed = INSTALL_LIST.search((root / INSTALL_FILE).read_text(encoding="utf-8"))
    names = {f"arrow_quant/{name}" for name in (listed[1].split() if listed else [])}
    for name in sorted(names):
        path = root / "cpp" / name
        for include in read_includes(path):
            if include.module is not None and include.header not in names | GENERATED_HEADERS:
                message = f"{include.header} is not in the list of {INSTALL_FILE}, where this header is"
                yield Violation(path.relative_to(root), include.line, message)


def find_violations(root: Path) -> list[Violation]:
    """Check every C++ file under cpp/arrow_quant and bindings, the installed headers, and every Python file."""
    violations: list[Violation] = list(check_installed(root)) if (root / INSTALL_FILE).exists() else []
    for folder in ("cpp/arrow_quant", "bindings"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in {".h", ".cc"}:
                violations += check_direction(path, root, read_includes(path))
            if ISA_SOURCE.search(path.name):
                violations += check_isa_source(path, root)
    for path in sorted((root / "python").rglob("*.py")):
        violations += check_python(path, root)
    return list(dict.fromkeys(violations))


def main(arguments: list[str]) -> int:
    """Print the violations under the root given, or under this repository."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    violations = find_violations(root.resolve())
    for violation in violations:
        print(violation)
    print(f"check_layers: {len(violations)} violation(s)")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
