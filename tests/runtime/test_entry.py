"""One registry entry: the checks on what a peer wrote, and which targets it matches."""

import json
import socket
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zerohop.address import candidates
from zerohop.entry import MAX_BYTES, Entry, Malformed, decode, encode, matching
from zerohop.registry import Registry, describe

# --- what peers write ---------------------------------------------------------------------------


def make_entry(**fields: object) -> Entry:
    values: dict[str, object] = {
        "key": "1-0-00000000",
        "names": ("a",),
        "addresses": ("127.0.0.1:1",),
        "advertise": (),
        "netns": 1,
        "pid": 1,
        "pidns": 1,
        "start_time": 1,
        "uid": 0,
        "socket_path": "/r/1-0-00000000.sock",
        **fields,
    }
    return Entry(**values)  # type: ignore[arg-type]


def parse(data: bytes) -> Entry:
    return decode(data, "1-0-00000000", 0, "/r/1-0-00000000.sock")


texts = st.text(max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=300))
@example(b"[" * MAX_BYTES)
@example(b'{"a":' * 10000)
@example(b"1" * MAX_BYTES)
@example(b"1e999")
@example(b'"\\ud800"')
@example(b" " * (MAX_BYTES + 1))
def test_bytes_that_are_no_entry(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


@given(
    st.dictionaries(
        st.sampled_from([*json.loads(encode(make_entry())), "unknown"]), json_values, max_size=4
    )
)
@example({"names": ["\ud800"]})
@example({"addresses": ["localhost"]})
@example({"addresses": ["127.0.0.01:1"]})
@example({"addresses": ["unix:../x"]})
@example({"addresses": ["unix:" + "x" * 5000]})
@example({"advertise": ["127.0.0.1:1"]})
@example({"pid": True})
@example({"pid": -1})
@example({"pid": 1 << 64})
@example({"version": 2})
@example({"socket": "/etc/passwd"})
@example({"socket": "1-1-00000000.sock"})
@example({"inodes": {"127.0.0.1:1": [1]}})
@example({"inodes": {"unix:/x": [1, 2]}})
@example({"inodes": {"127.0.0.1:1": [1, None]}})
@example({"names": ["a"] * 257})
def test_an_entry_with_changed_fields_is_checked(changes: dict[str, object]) -> None:
    value = {**json.loads(encode(make_entry())), **changes}
    try:
        entry = parse(json.dumps(value).encode())
    except Malformed:
        assert set(changes) - {"unknown"}
        return
    # What came through has the form that everybody may rely on.
    assert parse(encode(entry)) == entry
    assert all(name.isprintable() for name in entry.names)
    assert describe(entry).isprintable()


def test_unknown_fields_are_ignored() -> None:
    value = {**json.loads(encode(make_entry())), "later": {"a": [1]}}
    assert parse(json.dumps(value).encode()) == make_entry()


# --- which entries a target reaches ---------------------------------------------------------------


def reached(entries: list[Entry], target: str, netns: int = 1) -> list[str]:
    return [entry.names[0] for entry in matching(entries, candidates(target), netns)]


def listening(name: str, *addresses: str, netns: int = 1, advertise: tuple[str, ...] = ()) -> Entry:
    return make_entry(names=(name,), addresses=addresses, netns=netns, advertise=advertise)


def test_an_address_reaches_who_listens_on_it() -> None:
    servers = [listening("v4", "127.0.0.1:1"), listening("v6", "[::1]:1")]
    assert reached(servers, "127.0.0.1:1") == ["v4"]
    assert reached(servers, "ipv4:127.0.0.1:1") == ["v4"]
    assert reached(servers, "dns:///[::ffff:127.0.0.1]:1") == ["v4"]
    assert reached(servers, "[::1]:1") == ["v6"]
    assert reached(servers, "127.0.0.1:2") == []
    assert reached(servers, "127.0.0.2:1") == []
    assert reached(servers, "127.0.0.1:1", netns=2) == []
    assert reached(servers, "ipv4:127.0.0.2:1,127.0.0.1:1") == ["v4"]
    assert reached(servers, "0.0.0.0:1") == ["v4"]
    assert reached(servers, "[::]:1") == ["v6"]


def test_localhost_reaches_either_loopback() -> None:
    assert reached([listening("v4", "127.0.0.1:1")], "localhost:1") == ["v4"]
    assert reached([listening("v6", "[::1]:1")], "dns:localhost:1") == ["v6"]


@pytest.mark.parametrize("wildcard", ["0.0.0.0:1", "[::]:1"])
def test_a_wildcard_stands_for_all_addresses_of_the_machine(
    wildcard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = frozenset({"127.0.0.1", "::1", "10.1.1.1", "fd00::1"})
    monkeypatch.setattr("zerohop.address.local_addresses", lambda: addresses)
    servers = [listening("all", wildcard)]
    for target in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "10.1.1.1:1", "[fd00::1]:1"):
        assert reached(servers, target) == ["all"]
    for target in ("10.1.1.2:1", "[fd00::2]:1", "10.1.1.1:2"):
        assert reached(servers, target) == []
    assert reached(servers, "10.1.1.1:1", netns=2) == []
    servers.append(listening("one", "10.1.1.1:1"))
    assert reached(servers, "10.1.1.1:1") == ["one"]
    assert reached(servers, "127.0.0.1:1") == ["all"]


def test_several_processes_serve_one_port() -> None:
    servers = [listening("a", "[::]:1"), listening("b", "[::]:1")]
    assert reached(servers, "127.0.0.1:1") == ["a", "b"]


def test_the_first_candidate_that_somebody_serves_decides() -> None:
    servers = [listening("second", "127.0.0.2:1"), listening("first", "127.0.0.1:1")]
    assert reached(servers, "ipv4:127.0.0.1:1,127.0.0.2:1") == ["first"]


def test_an_advertised_name_is_matched_from_every_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = {"svc": "10.2.2.2", "own": "127.0.0.1"}
    monkeypatch.setattr(
        "zerohop.address._lookup", lambda host, port: [(table[host], port)] if host in table else []
    )
    servers = [
        listening("a", "[::]:1", netns=2, advertise=("svc:1", "gone.example:1", "10.2.2.2:9")),
        listening("b", "[::]:2", advertise=("own:1",)),
    ]
    assert reached(servers, "svc:1") == ["a"]
    assert reached(servers, "SVC.:1") == ["a"]
    assert reached(servers, "gone.example:1") == ["a"]  # does not even resolve
    assert reached(servers, "10.2.2.2:9") == ["a"]
    assert reached(servers, "svc:2") == []
    assert reached(servers, "other:1") == []
    assert reached(servers, "own:1") == []  # is an address of this machine: nobody listens there


@settings(max_examples=25)
@given(st.permutations(range(4)))
def test_the_order_of_entries_does_not_matter(order: list[int]) -> None:
    servers = [
        listening("all", "[::]:1"),
        listening("one", "127.0.0.1:1"),
        listening("far", "127.0.0.1:1", netns=2),
        listening("six", "[::1]:1"),
    ]
    assert reached([servers[i] for i in order], "127.0.0.1:1") == ["one"]


def test_a_unix_path_is_known_by_the_file_that_it_names(registry: Registry, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    path = folder / "app.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        (folder / "alias").symlink_to(path)
        with registry.publish(["app"], [f"unix:{path}"]):
            for target in (f"unix:{path}", f"unix://{path}", f"unix:{folder}/alias"):
                assert len(registry.lookup_address(candidates(target))) == 1
            assert registry.lookup_address([f"unix:{folder}/other"]) == []
            path.rename(folder / "moved")
            path.touch()  # the same path, another file: as seen from another container
            assert registry.lookup_address([f"unix:{path}"]) == []
            assert len(registry.lookup_address([f"unix:{folder}/moved"])) == 1


def test_a_unix_path_that_was_published_before_it_was_bound(
    registry: Registry, folder: Path
) -> None:
    with registry.publish(["app"], [f"unix:{folder}/later", "unix-abstract:name"]):
        assert len(registry.lookup_address(candidates(f"unix:{folder}/later"))) == 1
        assert len(registry.lookup_address(candidates("unix-abstract:name"))) == 1
        assert registry.lookup_address(candidates("unix-abstract:other")) == []
