"""The same sequences of changes, on protobuf's messages and on ours, compared after every step.

A pool of handles (messages, repeated fields, maps) stays alive over all steps, so that parts are
changed after what they were parts of.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import EncodeError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgharness import OURS, PB2, build, content, is_map, outcome, plain, plans, same, values
from zerohop import _native

changes = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


@dataclasses.dataclass
class Handle:
    """The same thing of both."""

    kind: str  # "message", "repeated", "map"
    theirs: Any
    ours: Any
    descriptor: Any  # of the message, or the field

    def __repr__(self) -> str:
        return f"{self.kind} {self.descriptor.full_name} {id(self):x}"

    def same(self) -> None:
        if self.kind == "message":
            same(self.theirs, self.ours)
            return
        assert plain(self.ours) == plain(self.theirs)
        assert len(self.ours) == len(self.theirs)


class Pool:
    def __init__(self, data: st.DataObject, short: str) -> None:
        self.data = data
        name = f"zerohop.vectors.{short}"
        plan = data.draw(plans(PB2[name].DESCRIPTOR, 2), label="begin with")
        theirs, ours = build(PB2[name], plan), build(OURS[name], plan)
        self.handles = [Handle("message", theirs, ours, theirs.DESCRIPTOR)]
        self.sent: list[Any] = []
        self.views: list[tuple[memoryview, bytes]] = []

    def draw(self, strategy: Any, label: str | None = None) -> Any:
        return self.data.draw(strategy, label=label)

    def both(self, handle: Handle, action: Callable[[Any, Any], Any], what: str) -> None:
        """The same with both; what comes of it is the same."""
        theirs = outcome(lambda: action(handle.theirs, PB2))
        ours = outcome(lambda: action(handle.ours, OURS))
        assert ours == theirs, what

    def keep(self, kind: str, theirs: Any, ours: Any, descriptor: Any) -> None:
        if len(self.handles) > 7:
            del self.handles[self.draw(st.integers(1, len(self.handles) - 1), "drop")]
        self.handles.append(Handle(kind, theirs, ours, descriptor))

    def step(self) -> None:
        handle = self.handles[self.draw(st.integers(0, len(self.handles) - 1), "of")]
        getattr(self, handle.kind)(handle)
        for one in self.handles:
            one.same()

    # --- what makes a message move ---

    def send(self) -> None:
        """All its blocks are lent: the next change is made in others."""
        with contextlib.suppress(EncodeError):  # required fields are missing
            self.sent.append(_native.snapshot(self.handles[0].ours))

    def waste(self) -> None:
        """A field takes many values, which are garbage, and then its own again."""
        first = self.handles[0]
        names = [f.name for f in first.descriptor.fields if f.type == f.TYPE_STRING]
        names = [name for name in names if isinstance(getattr(first.theirs, name), str)]
        if not names:
            return
        name = self.draw(st.sampled_from(names), "field")
        field = first.descriptor.fields_by_name[name]
        for message in first.theirs, first.ours:
            was_set = not field.has_presence or message.HasField(name)
            within = field.containing_oneof
            if not was_set and within is not None and message.WhichOneof(within.name):
                continue  # it would be another oneof
            before = getattr(message, name)
            for length in range(100, 4096, 80):
                setattr(message, name, "x" * length)
            setattr(message, name, before)
            if not was_set:
                message.ClearField(name)

    def view(self) -> None:
        """A view of bytes, which stay what they are."""
        first = self.handles[0]
        for field in first.descriptor.fields:
            view = getattr(first.ours, field.name)
            if isinstance(view, memoryview):
                self.views.append((view, bytes(view)))

    def move(self) -> None:
        what = self.draw(st.sampled_from(["send", "waste", "waste", "view", "look away"]), "move")
        if what == "look away":
            self.views = self.views[1:]
            self.sent = self.sent[1:]
        else:
            getattr(self, what)()
        for one in self.handles:
            one.same()
        assert all(view == content for view, content in self.views)

    # --- messages ---

    def message(self, handle: Handle) -> None:
        descriptor = handle.descriptor
        if not descriptor.fields:
            return
        name = self.draw(st.sampled_from([f.name for f in descriptor.fields]), "field")
        field = descriptor.fields_by_name[name]
        action = self.draw(
            st.sampled_from(["get", "get", "set", "set", "set", "clear", "whole", "merge", "copy"]),
            "action",
        )
        if action == "get":
            if is_map(field):
                kind, about = "map", field
            elif field.is_repeated:
                kind, about = "repeated", field
            elif field.message_type:
                kind, about = "message", field.message_type
            else:
                return
            self.keep(kind, getattr(handle.theirs, name), getattr(handle.ours, name), about)
        elif action == "set":
            if field.is_repeated or field.message_type:
                # upb makes an absent message be there before it refuses.
                first = self.handles[0]
                if handle is first:
                    self.both(first, lambda m, _: setattr(m, name, None), "container")
                return
            value = self.draw(values(field), "value")
            self.both(handle, lambda m, _: setattr(m, name, value), f"{name} = {value!r}")
        elif action == "clear":
            self.both(handle, lambda m, _: m.ClearField(name), f"ClearField({name})")
        elif action == "whole":
            method = self.draw(
                st.sampled_from(["Clear", "SetInParent", "DiscardUnknownFields"]), "method"
            )
            if method == "Clear":
                self.handles = [handle]  # see below
            self.both(handle, lambda m, _: getattr(m, method)(), method)
        else:
            plan = self.draw(plans(descriptor, 2), "other")
            method = "MergeFrom" if action == "merge" else "CopyFrom"
            # Of what was held and is empty, upb lets some follow the message and some not.
            self.handles = [handle]
            full = descriptor.full_name
            self.both(
                handle, lambda m, classes: getattr(m, method)(build(classes[full], plan)), method
            )

    # --- repeated ---

    def repeated(self, handle: Handle) -> None:
        field = handle.descriptor
        index = self.draw(st.integers(-4, 5), "index")
        if field.message_type:
            self.repeated_messages(handle, field, index)
            return
        value = self.draw(values(field), "value")
        more = self.draw(st.lists(values(field), max_size=4), "more")
        bounds = st.none() | st.integers(-4, 6)
        part = slice(
            self.draw(bounds), self.draw(bounds), self.draw(st.sampled_from([None, 1, 2, -1]))
        )
        actions: dict[str, Callable[[Any], Any]] = {
            "append": lambda r: r.append(value),
            "extend": lambda r: r.extend(more),
            "insert": lambda r: r.insert(index, value),
            "pop": lambda r: r.pop(),
            # upb takes the last one for what is out of range, and warns that it will not.
            "pop at": lambda r: r.pop(index) if -len(r) <= index < len(r) else None,
            "remove": lambda r: r.remove(value),
            "del": lambda r: r.__delitem__(index),
            "set": lambda r: r.__setitem__(index, value),
            "get": lambda r: r[index],
            "slice": lambda r: r[part],
            "set slice": lambda r: r.__setitem__(part, more),
            # upb loses count where a slice is empty, and crashes later.
            "del slice": lambda r: r.__delitem__(part) if r[part] else None,
            "sort": lambda r: r.sort(),
            "sort down": lambda r: r.sort(key=repr, reverse=True),
            "reverse": lambda r: r.reverse(),
            "in": lambda r: value in r,
            "count": lambda r: list(r).count(value),
            "self": lambda r: r.extend(list(r)),
            "equal": lambda r: (r == more, r == list(r), r != more),
        }
        if any(v != v for v in (value, *more)):
            del actions["sort"]
        name = self.draw(st.sampled_from(sorted(actions)), "action")
        if not len(handle.theirs) and name in ("del", "set", "pop", "remove"):
            return  # upb sets the message that the field is in before it refuses
        self.both(handle, lambda r, _: actions[name](r), name)

    def repeated_messages(self, handle: Handle, field: Any, index: int) -> None:
        kind = field.message_type
        plan = self.draw(plans(kind, 2), "plan")
        full = kind.full_name
        actions: dict[str, Callable[[Any, Any], Any]] = {
            "add": lambda r, c: r.add(),
            "add with": lambda r, c: content(r.add()),
            "append": lambda r, c: none(r.append(build(c[full], plan))),  # upb gives the message
            "extend": lambda r, c: r.extend([build(c[full], plan), build(c[full], {})]),
            "insert": lambda r, c: r.insert(index, build(c[full], plan)),
            "pop": lambda r, c: r.pop(),
            "pop at": lambda r, c: r.pop(index) if -len(r) <= index < len(r) else None,
            "del": lambda r, c: r.__delitem__(index),
            "del slice": lambda r, c: r.__delitem__(slice(0, index)) if r[0:index] else None,
            "set": lambda r, c: r.__setitem__(index, build(c[full], plan)),
            "reverse": lambda r, c: r.reverse(),
            "sort": lambda r, c: r.sort(key=lambda m: m.SerializePartialToString(True)),
            "sort by": lambda r, c: r.sort(key=lambda m: m.SerializePartialToString()),
            "remove": lambda r, c: r.remove(build(c[full], plan)),
            "in": lambda r, c: build(c[full], plan) in r,
            "self": lambda r, c: r.extend(list(r)),
        }
        name = self.draw(st.sampled_from(["keep", *sorted(actions)]), "action")
        if name != "keep":
            if len(handle.theirs) or name not in ("del", "set", "pop", "remove"):
                self.both(handle, actions[name], name)
            return
        if len(handle.theirs) and len(handle.ours):
            self.keep("message", handle.theirs[-1], handle.ours[-1], kind)

    # --- maps ---

    def map(self, handle: Handle) -> None:
        field = handle.descriptor
        key_field, value_field = (field.message_type.fields_by_number[n] for n in (1, 2))
        known = [*handle.theirs]
        keys = values(key_field)
        key = self.draw(st.sampled_from(known) | keys if known else keys, "key")
        actions: dict[str, Callable[[Any], Any]] = {
            "get": lambda m: m[key],
            "get or none": lambda m: m.get(key),
            "del": lambda m: m.__delitem__(key),
            "in": lambda m: key in m,
            "keys": lambda m: sorted(m.keys()),
            "items": lambda m: len(m.items()),
            "values": lambda m: len(m.values()),
            "iterate": lambda m: sorted(m),
            "clear": lambda m: m.clear(),
            "pop": lambda m: m.pop(key),
            "pop or": lambda m: m.pop(key, None),
            "merge": lambda m: m.MergeFrom(m) if len(m) else None,  # upb: the message is set then
            "none": lambda m: m[None],
            "list": lambda m: m[[]],
            # upb says no of an empty one, whatever it is asked for.
            "none in": lambda m: len(m) > 0 and None in m,
            "len": len,
        }
        if value_field.message_type:
            actions["set"] = lambda m: m.__setitem__(key, m[key])
            actions["get or create"] = lambda m: m.get_or_create(key)
        else:
            value = self.draw(values(value_field), "value")
            actions["set"] = lambda m: m.__setitem__(key, value)
            actions["set again"] = actions["set"]
            actions["update"] = lambda m: m.update({key: value})
            actions["equal"] = lambda m: (m == {key: value}, m == dict(m.items()))
            actions["setdefault"] = lambda m: m.setdefault(key, value)
        name = self.draw(st.sampled_from(["keep", *sorted(actions)]), "action")
        if name != "keep":
            self.both(handle, lambda m, _: actions[name](m), name)
            return
        if value_field.message_type and key in handle.theirs:
            self.keep("message", handle.theirs[key], handle.ours[key], value_field.message_type)


def none(_: Any) -> None:
    """Whatever it was."""


@pytest.mark.parametrize("short", ["Everything", "Tree", "Legacy", "Edition", "Scalars", "Wide"])
@changes
@given(data=st.data())
def test_sequences_of_changes(short: str, data: st.DataObject) -> None:
    pool = Pool(data, short)
    for _ in range(data.draw(st.integers(1, 12), "steps")):
        pool.step()
    first = pool.handles[0]
    same(copy.deepcopy(first.theirs), copy.deepcopy(first.ours))


@pytest.mark.parametrize("short", ["Everything", "Tree", "Legacy", "Edition", "Scalars", "Wide"])
@changes
@given(data=st.data())
def test_changes_of_what_moves(short: str, data: st.DataObject) -> None:
    pool = Pool(data, short)
    first = pool.handles[0]
    for _ in range(data.draw(st.integers(1, 12), "steps")):
        pool.move()
        pool.step()
        # A message that is cleared as a part takes the place of all handles.
        pool.handles = [first, *(one for one in pool.handles if one is not first)]
    assert all(view == content for view, content in pool.views)
