"""Changes messages at random and sends them in between. What has come has to stay as it was sent.

`changes.py SOCKET SEED ROUNDS`; changes_zerohop, from changes.proto, has to be on PYTHONPATH.
"""

from __future__ import annotations

import random
import sys

import changes_zerohop as types
import numpy
import zerohop

target, random_ = "shm:" + sys.argv[1], random.Random(int(sys.argv[2]))
received = []


class Keeper(types.KeeperServicer):
    def Keep(self, request, context):
        received.append(request)
        return types.Tree()


def chance(probability):
    return random_.random() < probability


def some_bytes():
    return bytes([random_.randrange(256)]) * random_.choice([0, 3, 100, 700, 4096, 5000, 40000])


def some_text():
    return random_.choice("abc") * random_.choice([0, 3, 100, 700, 4096, 5000])


def some_tree(depth=0):
    tree = types.Tree(number=random_.randrange(100), text=some_text())
    if chance(0.5):
        tree.data = some_bytes()
    if chance(0.5):
        tree.doubles.extend([random_.random()] * random_.choice([1, 10, 600, 1000]))
    if chance(0.3):
        tree.texts.extend("x" * random_.randrange(20) for _ in range(random_.choice([1, 5, 600])))
    if chance(0.3):
        tree.chunks[random_.randrange(5)] = some_bytes()
    if depth < 2 and chance(0.5):
        tree.child.CopyFrom(some_tree(depth + 1))
    for _ in range(random_.choice([1, 3, 600]) if depth < 2 and chance(0.3) else 0):
        tree.children.add(number=random_.randrange(9))
    for _ in range(random_.choice([1, 3, 600]) if depth < 2 and chance(0.3) else 0):
        tree.named[str(random_.randrange(1000))].number = random_.randrange(9)
    return tree


def change_bytes(tree):
    tree.data = some_bytes()


def change_text(tree):
    tree.text = some_text()


def change_number(tree):
    tree.number = random_.randrange(1000)


def append_number(tree):
    tree.doubles.append(random_.random())


def extend_numbers(tree):
    tree.doubles.extend(numpy.arange(random_.choice([1, 100, 600]), dtype=float))


def change_element(tree):
    if tree.doubles:
        tree.doubles[random_.randrange(len(tree.doubles))] = 5.5


def remove_element(tree):
    if tree.doubles:
        del tree.doubles[random_.randrange(len(tree.doubles))]


def sort(tree):
    tree.doubles.sort()


def write_to_array(tree):
    numpy.asarray(tree.doubles)[:] = 1.25


def append_text(tree):
    tree.texts.append(some_text())


def change_one_text(tree):
    if tree.texts:
        tree.texts[random_.randrange(len(tree.texts))] = some_text()


def reverse(tree):
    tree.texts.reverse()


def append_bytes(tree):
    tree.blobs.append(some_bytes())


def change_one_blob(tree):
    if tree.blobs:
        tree.blobs[random_.randrange(len(tree.blobs))] = some_bytes()


def add_child(tree):
    tree.children.add().CopyFrom(some_tree(1))


def remove_child(tree):
    if tree.children:
        tree.children.pop(random_.randrange(len(tree.children)))


def add_entry(tree):
    tree.named[str(random_.randrange(1000))].text = some_text()


def remove_entry(tree):
    if tree.named:
        del tree.named[random_.choice(list(tree.named))]


def change_entry(tree):
    tree.chunks[random_.randrange(5)] = some_bytes()


def merge_wire(tree):
    tree.MergeFromString(some_tree(1).SerializeToString())


def merge(tree):
    tree.MergeFrom(some_tree(1))


def clear(tree):
    tree.ClearField(random_.choice(["data", "doubles", "texts", "child", "children", "named"]))


def choose(tree):
    which = random_.randrange(3)
    if which == 0:
        tree.one_data = some_bytes()
    elif which == 1:
        tree.one_text = some_text()
    else:
        tree.one_tree.data = some_bytes()


CHANGES = [
    value
    for value in list(globals().values())
    if getattr(value, "__code__", None) is not None and value.__code__.co_varnames[:1] == ("tree",)
]


def some_part(tree):
    while chance(0.5):
        way = random_.randrange(4)
        if way == 0:
            tree = tree.child
        elif way == 1 and tree.children:
            tree = tree.children[random_.randrange(len(tree.children))]
        elif way == 2 and tree.named:
            tree = tree.named[random_.choice(list(tree.named))]
        elif way == 3:
            tree = tree.one_tree
    return tree


def content(tree):
    return tree.SerializeToString(deterministic=True)


server = zerohop.server()
types.add_KeeperServicer_to_server(Keeper(), server)
server.add_insecure_port(target)
server.start()
with zerohop.insecure_channel(target) as channel:
    stub = types.KeeperStub(channel)
    tree, sent = some_tree(), []
    for number in range(int(sys.argv[3])):
        for _ in range(random_.randrange(1, 4)):
            random_.choice(CHANGES)(some_part(tree))
        sent.append((number, content(tree)))
        stub.Keep(tree, timeout=30)
        if len(sent) > 5:
            at = random_.randrange(len(sent))
            (first, then), now = sent.pop(at), content(received.pop(at))
            if now != then:
                sys.exit(f"what was sent in round {first} was another message in round {number}")
        if chance(0.1):
            tree = some_tree()
server.stop(None)
print("as sent")
