"""The registry: what is published is found, by whom it should be, until it is closed."""

import os
import socket
import stat
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from zerohop.address import candidates
from zerohop.directory import MAX_SOCKET_PATH
from zerohop.registry import Registry, RegistryError, describe, locate

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


# --- where ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "environment", "expected"),
    [
        (0, {"ZEROHOP_REGISTRY": "/a/b", "XDG_RUNTIME_DIR": "{own}"}, "/a/b"),
        (0, {"ZEROHOP_REGISTRY": "", "XDG_RUNTIME_DIR": "{own}"}, "{own}/zerohop"),
        (0, {"XDG_RUNTIME_DIR": "{own}"}, "{own}/zerohop"),
        (0, {"XDG_RUNTIME_DIR": "{own}/missing"}, "/run/zerohop"),
        (0, {"XDG_RUNTIME_DIR": "relative"}, "/run/zerohop"),
        (0, {}, "/run/zerohop"),
        (4711, {"XDG_RUNTIME_DIR": "{own}"}, "/tmp/zerohop-4711"),  # somebody else's, as after su
        (4711, {}, "/tmp/zerohop-4711"),
    ],
)
def test_where_the_registry_is(
    uid: int,
    environment: dict[str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.geteuid() != 0 and uid == 0:
        pytest.skip("a directory of root's needs root")
    monkeypatch.delenv("ZEROHOP_REGISTRY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(own=tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert locate()[0] == expected.format(own=tmp_path)
    assert Registry().path == expected.format(own=tmp_path)


def test_a_missing_directory_has_no_entries_and_is_made_for_the_first(
    registry: Registry, folder: Path
) -> None:
    assert registry.entries() == []
    assert not folder.exists()
    with registry.publish(["a"]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_directories_that_are_refused(folder: Path) -> None:
    registry = Registry(folder)
    target = folder.with_name("target")
    target.mkdir(mode=0o700)

    def refused(reason: str) -> None:
        for use in (registry.reserve, registry.entries):
            with pytest.raises(RegistryError, match=reason) as caught:
                use()
            assert "Accepted is a directory" in str(caught.value)
            assert "2770" in str(caught.value)

    folder.symlink_to(target)
    refused("symbolic link")
    folder.unlink()
    folder.write_text("")
    refused("no directory")
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    refused("everybody may write")
    folder.chmod(0o1777)
    refused("everybody may write")
    folder.chmod(0o770)
    refused("by accident")
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 4711, 0)
        refused("belongs to uid 4711")
        os.chown(folder, 0, 0)
    for mode in (0o700, 0o755, 0o2770, 0o3770):
        folder.chmod(mode)
        with registry.publish(["a"]):
            assert len(registry.lookup("a")) == 1


def test_a_directory_whose_parent_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"there is no .*/missing"):
        Registry(tmp_path / "missing" / "reg").reserve()


def test_a_path_that_leaves_no_room_for_a_socket(folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    long = folder.parent / ("x" * MAX_SOCKET_PATH)
    with pytest.raises(RegistryError, match="Set ZEROHOP_REGISTRY to a shorter one"):
        Registry(long).reserve()
    assert list(long.iterdir()) == []


# --- publishing ---------------------------------------------------------------------------------


def test_an_entry_is_visible_from_commit_to_close(registry, left) -> None:
    registration = registry.reserve()
    assert registry.entries() == []
    assert len(os.fsencode(registration.socket_path)) <= MAX_SOCKET_PATH
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(registration.socket_path)
        listener.listen()
        registration.commit(["pkg.Service"], ["127.0.0.1:5000"], ["Name.example.:80"])
        (entry,) = registry.lookup("pkg.Service")
        assert entry == registration.entry
        assert entry.key == registration.key
        assert entry.names == ("pkg.Service",)
        assert entry.addresses == ("127.0.0.1:5000",)
        assert entry.advertise == ("name.example:80",)
        assert (entry.pid, entry.uid) == (os.getpid(), os.geteuid())
        assert 0 < entry.started <= time.clock_gettime(time.CLOCK_BOOTTIME)
        assert entry.socket_path == registration.socket_path
        assert "pkg.Service" in describe(entry)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(entry.socket_path)
        assert left() == [".json", ".lock", ".sock"]
    registration.close()
    registration.close()
    assert registration.closed
    assert registry.entries() == []
    assert left() == []
    with pytest.raises(RegistryError, match="closed"):
        registration.commit(["a"])


def test_update_replaces_parts(registry: Registry) -> None:
    with registry.reserve() as registration:
        with pytest.raises(RegistryError, match="commit"):
            registration.update(names=["a"])
        registration.commit(["a"], ["127.0.0.1:1"])
        registration.update(addresses=["127.0.0.1:1", "127.0.0.1:2"])
        (entry,) = registry.lookup("a")
        assert entry.addresses == ("127.0.0.1:1", "127.0.0.1:2")
        registration.update(names=["b"], advertise=["b:1"])
        assert registry.lookup("a") == []
        assert registry.lookup("b")[0].advertise == ("b:1",)


@pytest.mark.parametrize(
    ("names", "addresses", "advertise", "reason"),
    [
        ([""], [], [], "1 to 255"),
        (["a\n"], [], [], "printable"),
        (["a"], ["127.0.0.1"], [], "HOST:PORT"),
        (["a"], ["127.0.0.1:0"], [], "from 1 to 65535"),
        (["a"], ["no.such.name.invalid:1"], [], "does not resolve"),
        (["a"], [], ["localhost:1"], "cannot advertise"),
        (["a"], [], ["0.0.0.0:1"], "cannot advertise"),
        (["a"], [], ["unix:/a"], "expected HOST:PORT"),
        (["\U0001f600" * 255] + [f"{i:0255}" for i in range(255)], [], [], "limit is"),
    ],
)
def test_what_cannot_be_published(
    registry: Registry,
    left: Callable[[], list[str]],
    names: list[str],
    addresses: list[str],
    advertise: list[str],
    reason: str,
) -> None:
    with pytest.raises(ValueError, match=reason):
        registry.publish(names, addresses, advertise)
    assert left() == []


def test_publish_takes_everything_back_when_listening_fails(registry, left) -> None:
    def listen(path: str) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        registry.publish(["a"], listen=listen)
    assert left() == []


def test_a_process_that_ends_takes_its_entries_along(registry, left, spawn) -> None:
    process = spawn("publish(['a']); publish(['a'])")
    assert len(registry.lookup("a")) == 2
    assert process.end() == 0
    assert left() == []


# --- change detection ---------------------------------------------------------------------------


def test_generation_stays_while_nothing_changes(registry: Registry) -> None:
    assert registry.generation() == registry.generation()  # no directory yet
    with registry.publish(["a"]) as registration:
        assert registry.generation() != registry.generation()  # too young to tell
        wait_until(lambda: registry.generation() == registry.generation())
        before = registry.generation()
        registry.lookup("a")
        time.sleep(0.05)
        assert registry.generation() == before
        for change in (
            lambda: registration.update(names=["b"]),
            lambda: registration.update(addresses=["127.0.0.1:1"]),
            registration.close,
        ):
            change()
            assert registry.generation() != before
            wait_until(lambda: registry.generation() == registry.generation())
            before = registry.generation()


def test_generation_misses_no_change_however_fast(registry: Registry) -> None:
    with registry.publish(["a"], ["127.0.0.1:1"]) as registration:
        for port in range(2, 500):
            generation = registry.generation()
            registry.lookup("a")
            registration.update(addresses=[f"127.0.0.1:{port}"])
            assert registry.generation() != generation


def test_a_registry_that_is_removed_under_a_server(registry, folder) -> None:
    with registry.publish(["a"]) as registration:
        (folder / f"{registration.key}.lock").unlink()
        with pytest.raises(RegistryError, match="somebody has removed"):
            registration.update(names=["b"])
    with registry.publish(["a"]) as registration:
        folder.rename(folder.with_name("other"))
        with pytest.raises(RegistryError, match="somebody has removed it"):
            registration.update(names=["b"])
    assert registration.closed


def test_why_a_target_is_not_local(registry, folder) -> None:
    assert registry.why_not(candidates("127.0.0.1:1")) == (
        f"no server in {folder} listens on 127.0.0.1:1"
    )
    assert "an address like that" in registry.why_not(candidates("xds:///a"))


@needs_root
def test_entries_of_another_network_namespace(registry, spawn, run) -> None:
    with registry.publish(["near"], ["127.0.0.1:6000"]):
        spawn("publish(['far'], ['0.0.0.0:5000'], ['far.example:80'])", "unshare", "--net")
        assert {entry.names for entry in registry.entries()} == {("far",), ("near",)}
        assert registry.lookup("far") == []
        assert registry.lookup_address(candidates("127.0.0.1:5000")) == []
        assert "in another network namespace" in registry.why_not(candidates("127.0.0.1:5000"))
        assert len(registry.lookup_address(candidates("far.example:80"))) == 1
        assert len(registry.lookup_address(candidates("127.0.0.1:6000"))) == 1
        code = """
            r = Registry()
            near = r.lookup_address([('127.0.0.1', 6000)])
            print(len(r.entries()), len(r.lookup('near')), len(near))
        """
        assert run(code, "unshare", "--net") == ["2 0 0"]


# --- several users ------------------------------------------------------------------------------

USER = "import os; os.setgroups([]); os.setgid(4700); os.setuid({}); os.umask(0o077)\n"


@pytest.fixture
def shared(folder: Path) -> Path:
    folder.parent.chmod(0o755)
    folder.mkdir()
    os.chown(folder, 0, 4700)
    folder.chmod(0o2770)
    return folder


@needs_root
def test_a_directory_shared_by_several_users(shared, left, spawn, run) -> None:
    process = spawn(USER.format(4701) + "publish(['a'], ['127.0.0.1:1'])")
    look = USER.format(4702) + textwrap.dedent(
        """
        def connects(entries):
            for entry in entries:
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(entry.socket_path)
            return len(entries)
        print([(e.names, e.uid) for e in Registry().entries()], Registry().lookup('a'))
        print('ZEROHOP_ALLOW_UIDS' in Registry().why_not([('127.0.0.1', 1)]))
        print(connects(Registry(allow_uids=[4701]).lookup('a')))
        os.environ['ZEROHOP_ALLOW_UIDS'] = '1, 4701'
        print(connects(Registry().lookup_address([('127.0.0.1', 1)])))
        """
    )
    assert run(look) == ["[(('a',), 4701)] []", "True", "1", "1"]
    process.kill()
    assert run(look) == ["[] []", "False", "0", "0"]
    assert left() == []  # another user's stale entry was removed


@needs_root
def test_a_socket_that_was_replaced_by_a_link_is_left_alone(shared: Path) -> None:
    secret = shared.parent / "secret"
    secret.write_text("")
    secret.chmod(0o600)
    registration = Registry(shared).reserve()
    os.symlink(secret, registration.socket_path)
    registration.commit(["a"])
    registration.close()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


@needs_root
def test_an_entry_under_another_users_lock_is_skipped(shared, spawn) -> None:
    process = spawn(USER.format(4701) + "print(publish(['a']).key)")
    os.chown(shared / f"{process.output[0]}.json", 4702, 4700)
    assert Registry(shared).entries() == []


def test_a_bad_list_of_users_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROHOP_ALLOW_UIDS", "alice")
    with pytest.raises(RegistryError, match="ZEROHOP_ALLOW_UIDS='alice'"):
        Registry()
