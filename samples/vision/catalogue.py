"""The last service: a thumbnail of every picture and of its edges, and an index of them."""

from __future__ import annotations

import html
import json
import re
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic_ns
from typing import Any

from PIL import Image
from stage import HandsOn, Received, host
from transports import Pixels, Transport

THUMBNAIL_WIDTH = 200

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The vision sample's catalogue</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
        color: #1d2733; background: #f7f8fa }}
ul {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem;
      list-style: none; padding: 0 }}
li {{ background: #fff; border-radius: 8px; padding: .8rem; box-shadow: 0 1px 3px #0002 }}
li img {{ width: 49%; border-radius: 4px }}
h2 {{ font-size: 1rem; margin: .4rem 0 0 }}
p {{ margin: 0; color: #5a6675 }}
.chart {{ width: 100%; background: #fff; border-radius: 8px }}
</style>
<h1>{photos} photographs, {frames} frames</h1>
<p>Each went from the camera through resize and edges to here.</p>
<ul>
{cards}
</ul>
<img class="chart" src="vision.png" alt="The latency of each hop and the frames per second">
</html>
"""

CARD = """<li><img src="{thumbnail}" alt="{photo}"> <img src="{edges}" alt="its edges">
<h2>{photo}</h2><p>{width} x {height}, edges {share:.1%}; frames: {counts}</p></li>"""


@dataclass
class Entry:
    """What is known of one photograph."""

    thumbnail: Image.Image
    edges: Image.Image
    size: tuple[int, int]
    edge_share: float
    # By transport: how many frames came, and the checksum of the first one's pixels.
    frames: dict[str, int] = field(default_factory=dict)
    crc32: dict[str, str] = field(default_factory=dict)


class Album:
    """All photographs, whichever transport brought them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def add(self, transport: str, photo: str, picture: Pixels, edges: Pixels) -> None:
        thumbnail, outline = shrink(picture), shrink(edges)
        share = float(edges.mean()) / 255
        height, width, _ = picture.shape
        with self._lock:
            entry = self._entries.setdefault(
                photo, Entry(thumbnail, outline, (width, height), share)
            )
            if transport not in entry.crc32:
                entry.crc32[transport] = f"{zlib.crc32(picture.tobytes() + edges.tobytes()):08x}"
            entry.frames[transport] = entry.frames.get(transport, 0) + 1

    def publish(self, directory: Path) -> tuple[int, int]:
        """Write thumbnails, index.json and index.html; how many photographs and frames."""
        (directory / "thumbnails").mkdir(parents=True, exist_ok=True)
        with self._lock:
            rows = [self._write(directory, number) for number in enumerate(self._entries.items())]
        frames = sum(sum(row["frames"].values()) for row in rows)
        (directory / "index.json").write_text(json.dumps(rows, indent=1) + "\n")
        cards = "\n".join(card(row) for row in rows)
        page = PAGE.format(photos=len(rows), frames=frames, cards=cards)
        (directory / "index.html").write_text(page, encoding="utf-8")
        return len(rows), frames

    def _write(self, directory: Path, numbered: tuple[int, tuple[str, Entry]]) -> dict[str, Any]:
        number, (photo, entry) = numbered
        stem = f"{number:02}-{re.sub(r'[^A-Za-z0-9]+', '-', Path(photo).stem)}"
        row = {
            "photo": photo,
            "thumbnail": f"thumbnails/{stem}.jpg",
            "edges": f"thumbnails/{stem}-edges.jpg",
            "width": entry.size[0],
            "height": entry.size[1],
            "edge_share": round(entry.edge_share, 4),
            "frames": entry.frames,
            "crc32": entry.crc32,
        }
        entry.thumbnail.save(directory / str(row["thumbnail"]), quality=88)
        entry.edges.save(directory / str(row["edges"]), quality=88)
        return row


def shrink(picture: Pixels) -> Image.Image:
    """A picture of its own, about THUMBNAIL_WIDTH wide."""
    image = Image.fromarray(picture if picture.shape[2] == 3 else picture[:, :, 0])
    return image.reduce(max(1, round(image.width / THUMBNAIL_WIDTH)))


def card(row: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} by {key}" for key, count in row["frames"].items())
    plain = {key: html.escape(value) for key, value in row.items() if isinstance(value, str)}
    return CARD.format(**{**row, **plain}, share=row["edge_share"], counts=html.escape(counts))


class Catalogue(HandsOn):
    name = "catalogue"

    def __init__(self, transport: Transport, album: Album):
        self.transport = transport
        self._album = album

    def Process(self, request: Any, context: Any) -> Any:
        received = Received.of(request)
        if received.edges is None:
            raise ValueError("the frame has no edges")
        self._album.add(self.transport.key, received.photo, received.picture, received.edges)
        compute_ns = monotonic_ns() - received.at_ns
        return received.receipt(self.transport, self.name, compute_ns)

    def Publish(self, request: Any, context: Any) -> Any:
        photos, frames = self._album.publish(Path(request.directory))
        return self.transport.messages.PublishReply(photos=photos, frames=frames)


def main() -> None:
    album = Album()

    def add_to(transport: Transport, directory: str, server: Any) -> None:
        catalogue = Catalogue(transport, album)
        transport.stubs.add_CatalogueServicer_to_server(catalogue, server)

    host("catalogue", add_to)


if __name__ == "__main__":
    main()
