"""Fixtures of the API suite: every test runs on grpcio and on zerohop and must see the same."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from faultharness import *  # noqa: F403 - fixtures
from generatedharness import *  # noqa: F403 - fixtures
from registryharness import *  # noqa: F403 - fixtures
from runharness import *  # noqa: F403 - fixtures

_HERE = Path(__file__).resolve().parent
# Whatever the import mode, the test modules find the harness.
if str(_HERE) not in sys.path:
    sys.path.insert(0, str(_HERE))

# "run" is grpcio after zerohop.install(): what programs under `zerohop run` get. "-generated" is
# with our messages, stubs and servicers in place of the stock ones; the last two run when they are
# asked for.
_USUAL = ("grpcio", "zerohop", "run", "zerohop-generated")
_IMPLS = (*_USUAL, "run-generated", "grpcio-generated")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--impl",
        choices=_IMPLS,
        default=None,
        help="run the API suite on this implementation only (also: ZEROHOP_TEST_IMPL)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "inline_ok: handlers may run in the polling thread, so the test also runs on a zerohop "
        "server without a thread pool",
    )
    import apiharness

    cache = getattr(config, "cache", None)
    apiharness.use_protos(None if cache is None else Path(cache.mkdir("zhtest-protos")))


def _wanted(config: pytest.Config) -> list[str]:
    only = config.getoption("--impl", default=None) or os.environ.get("ZEROHOP_TEST_IMPL")
    if only and only not in _IMPLS:
        raise pytest.UsageError(f"no such implementation: {only}")
    return [only] if only else list(_USUAL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = _wanted(metafunc.config)
    if "impl" in metafunc.fixturenames:
        names = list(wanted)
        if "zerohop" in names and metafunc.definition.get_closest_marker("inline_ok"):
            names.append("zerohop-inline")
        metafunc.parametrize("impl", names, ids=names, indirect=True)
    if "impl_name" in metafunc.fixturenames:
        names = [name for name in wanted if not name.endswith("-generated")]
        metafunc.parametrize("impl_name", names, ids=names)
    if "impl_aio" in metafunc.fixturenames:
        metafunc.parametrize("impl_aio", wanted, ids=wanted, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None and item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(int(os.environ.get("ZEROHOP_TEST_TIMEOUT", "120"))))


@contextlib.contextmanager
def _installed(impl: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """For "run": grpc as `zerohop run` makes it, with a registry of the test's own. For
    "-generated": generated modules in place of the stock ones."""
    with contextlib.ExitStack() as stack:
        if impl.endswith("-generated"):
            import generatedharness

            stack.enter_context(generatedharness.in_place(request.module))
        if impl.startswith("run"):
            stack.enter_context(_run(tmp_path))
        yield


@contextlib.contextmanager
def _run(tmp_path: Path) -> Iterator[None]:
    from zerohop.install import install, uninstall

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZEROHOP_REGISTRY", str(tmp_path / "registry"))
        install()
        try:
            yield
        finally:
            uninstall()


@pytest.fixture
def impl(request: pytest.FixtureRequest, tmp_path: Path):
    """The synchronous API of grpcio or of zerohop."""
    import apiharness

    with _installed(request.param, request, tmp_path):
        harness = apiharness.Impl(request.param, tmp_path)
        yield harness
        harness.close()


@pytest_asyncio.fixture
async def impl_aio(request: pytest.FixtureRequest, tmp_path: Path):
    """The asyncio API of grpcio or of zerohop."""
    import apiharness

    with _installed(request.param, request, tmp_path):
        harness = apiharness.AioImpl(request.param, tmp_path)
        yield harness
        await harness.close()
