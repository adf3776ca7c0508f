"""The registry when processes are killed, fork, race, and write nonsense."""

import logging
import os
import signal
import threading
import time
from collections import Counter

import pytest
from zerohop.entry import MAX_BYTES
from zerohop.registry import Registry, RegistryError

# --- killed -------------------------------------------------------------------------------------


def test_a_killed_process_is_stale_and_the_next_lister_removes_it(registry, left, spawn) -> None:
    with registry.publish(["mine"]):
        process = spawn("publish(['a'])")
        assert len(registry.lookup("a")) == 1
        process.kill()
        assert left() == [".json", ".json", ".lock", ".lock", ".sock"]
        assert registry.lookup("a") == []
        assert left() == [".json", ".lock"]  # ours
        assert len(registry.lookup("mine")) == 1


def test_a_killed_process_is_stale_though_its_forked_worker_lives(registry, left, spawn) -> None:
    process = spawn(
        """
        publish(['a'])
        worker = os.fork()
        if not worker:
            time.sleep(60)
            os._exit(0)
        print(worker)
        """
    )
    worker = int(process.output[0])
    try:
        assert len(registry.lookup("a")) == 1
        process.kill()
        assert registry.lookup("a") == []
        assert left() == []
        os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_process_that_becomes_another_program_is_stale(registry, left, spawn) -> None:
    spawn("publish(['a']); os.execvp('sh', ['sh', '-c', 'echo ready; read x'])")
    assert registry.lookup("a") == []
    assert left() == []


def test_remains_of_a_removal_that_was_cut_short_are_removed(registry, folder) -> None:
    folder.mkdir(mode=0o700)
    for name in ("1-0-0a0b0c0d.json", "2-0-0a0b0c0d.sock", "3-0-0a0b0c0d.lock", "4-0-0a0b0c0d.tmp"):
        (folder / name).touch()
    foreign = {"notes.txt", "5-0-xyz.lock", ".lock", "6-0-0a0b0c0d.lock.bak"}
    for name in foreign:
        (folder / name).touch()
    assert registry.entries() == []
    assert {path.name for path in folder.iterdir()} == foreign


def test_a_lock_without_an_entry_is_a_server_that_is_starting(registry, left, spawn) -> None:
    spawn("r = Registry().reserve()")
    assert registry.entries() == []
    assert left() == [".lock"]


# --- races --------------------------------------------------------------------------------------


def test_listing_in_many_threads_does_not_lose_ones_own_locks(registry, left, run) -> None:
    # A POSIX lock ends when its process closes any descriptor of the file.
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with registry.publish(["short"]):
                assert len(Registry(registry.path).lookup("kept")) == 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    with registry.publish(["kept"]):
        for thread in threads:
            thread.start()
        try:
            output = run("print([len(Registry().lookup('kept')) for _ in range(300)])")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert output == [str([1] * 300)]
    assert left() == []


def test_creators_and_removers_race(registry, left, spawn) -> None:
    # Each publishes and must find itself and us, while everybody lists, removes, and is killed.
    code = """
        import threading
        def forever():
            registry = Registry()
            while True:
                with registry.publish([f'n{os.getpid()}'], ['127.0.0.1:1']) as mine:
                    found = registry.lookup(f'n{os.getpid()}')
                    if [e.key for e in found] != [mine.key]:
                        print('lost itself', flush=True)
                    if not os.path.exists(mine.socket_path.replace('.sock', '.lock')):
                        print('lost its lock', flush=True)
                    if len(registry.lookup('kept')) != 1:
                        print('lost us', flush=True)
        threading.Thread(target=forever, daemon=True).start()
    """
    with registry.publish(["kept"]):
        end = time.monotonic() + 3
        processes = [spawn(code) for _ in range(3)]
        while time.monotonic() < end:
            time.sleep(0.1)
            process = processes.pop(0)
            process.kill()
            assert process.rest() == ""
            processes.append(spawn(code))
            assert len(registry.lookup("kept")) == 1
        for process in processes:
            process.kill()
        assert [entry.names for entry in registry.entries()] == [("kept",)]
        assert left() == [".json", ".lock"]


def test_who_locks_every_new_file_gets_an_error(registry, monkeypatch) -> None:
    monkeypatch.setattr("zerohop.directory._new_lock", lambda *_: -1)
    with pytest.raises(RegistryError, match="somebody locks"):
        registry.reserve()


def test_a_new_file_that_a_lister_took_for_stale(registry, left, run, monkeypatch) -> None:
    # The worst moment for a creator: another process lists between its open and its lock.
    import fcntl

    real, listed = fcntl.lockf, Counter()

    def lockf(fd: int, command: int) -> None:
        if command & fcntl.LOCK_EX and not listed:
            listed.update(run("Registry().entries(); print('listed')"))
            assert left() == []
        real(fd, command)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with registry.publish(["a"]):
        assert listed == {"listed": 1}
        assert left() == [".json", ".lock"]
        assert run("print(len(Registry().lookup('a')))") == ["1"]


# --- forks --------------------------------------------------------------------------------------


def test_a_forked_child_cannot_disturb_its_parent(registry, spawn) -> None:
    process = spawn(
        """
        mine = publish(['parent'])
        pid = os.fork()
        if not pid:
            assert mine.closed
            mine.close()
            try:
                mine.commit(['child'])
            except OSError as error:
                print(error)
            print([e.names for e in Registry().entries()])
            child = publish(['child'])
            print(len(Registry().entries()), flush=True)
            sys.exit()  # and so runs what is registered with atexit
        os.waitpid(pid, 0)
        print([e.names for e in Registry().entries()])
        """
    )
    assert process.output[0].endswith("reserve a new one in the child")
    assert process.output[1:] == ["[('parent',)]", "2", "[('parent',)]"]
    assert [entry.names for entry in registry.entries()] == [("parent",)]


def test_a_child_that_was_forked_in_c(registry, spawn) -> None:
    # Python's at-fork handlers have not run there.
    process = spawn(
        """
        import ctypes
        mine = publish(['parent'])
        pid = ctypes.PyDLL(None).fork()
        if not pid:
            mine.close()
            print([e.names for e in Registry().entries()])
            with publish(['child']):
                print(len(Registry().entries()), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)
        """
    )
    assert process.output == ["[('parent',)]", "2"]
    assert [entry.names for entry in registry.entries()] == [("parent",)]


def test_forks_while_another_thread_publishes_and_lists(registry, spawn) -> None:
    process = spawn(
        """
        import threading
        mine = publish(['parent'])
        stop = []
        def work():
            while not stop:
                with publish(['x']):
                    Registry().entries()
        thread = threading.Thread(target=work)
        thread.start()
        for _ in range(50):
            pid = os.fork()
            if not pid:
                with publish(['child']):
                    os._exit(len(Registry().lookup('parent')))
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        stop.append(1)
        thread.join()
        """
    )
    assert process.output == ["1"] * 50
    assert [entry.names for entry in registry.entries()] == [("parent",)]


# --- nonsense -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["garbage", "fifo", "symlink", "directory", "large", "gone"])
def test_malformed_entries_are_skipped(registry, folder, spawn, what, caplog) -> None:
    caplog.set_level(logging.DEBUG, "zerohop.registry")
    process = spawn("print(publish(['bad']).key)")
    path = folder / f"{process.output[0]}.json"
    content = path.read_bytes()
    path.unlink()
    if what == "garbage":
        path.write_bytes(b"\xff{")
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "symlink":
        path.with_suffix(".real").write_bytes(content)
        path.symlink_to(path.with_suffix(".real"))
    elif what == "directory":
        path.mkdir()
    elif what == "large":
        path.write_bytes(content + b" " * MAX_BYTES)
    with registry.publish(["good"]):
        assert [entry.names for entry in registry.entries()] == [("good",)]
    assert ("skipped" in caplog.text) == (what != "gone")
