"""What would crash the native server is said in a sentence before it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from elspeth_dagster.core.errors import ProviderError
from elspeth_dagster.llm.local import check_machine

HASWELL = "processor\t: 0\nflags\t\t: fpu sse4_2 avx f16c fma avx2 bmi2\nbugs\t\t:\n"
IVY_BRIDGE = "processor\t: 0\nflags\t\t: fpu sse4_2 avx f16c\nbugs\t\t: avx2_is_not_a_flag_here\n"


def test_an_x86_cpu_without_avx2_is_refused() -> None:
    with pytest.raises(ProviderError, match=r"^This CPU has no AVX2"):
        check_machine("x86_64", IVY_BRIDGE)


@pytest.mark.parametrize(
    ("machine", "cpuinfo"),
    [("x86_64", HASWELL), ("aarch64", "Features\t: fp asimd\n"), ("arm64", ""), ("AMD64", "")],
    ids=["x86 with AVX2", "arm", "macOS", "unknown"],
)
def test_other_cpus_pass(machine: str, cpuinfo: str) -> None:
    check_machine(machine, cpuinfo)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux wheels take these libraries from the system")
@pytest.mark.parametrize(("library", "package"), [("libgomp.so.1", "libgomp1"), ("libstdc++.so.6", "libstdc++6")])
def test_a_missing_library_names_the_package_to_install(library: str, package: str) -> None:
    def load(name: str) -> None:
        if name == library:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    with pytest.raises(ProviderError) as error:
        check_machine("x86_64", HASWELL, load)
    assert library in str(error.value)
    assert f"apt-get install {package}" in str(error.value)


def test_the_native_code_is_not_imported_before_the_check() -> None:
    program = "import sys, elspeth_dagster.llm.local; sys.exit('xllamacpp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
