"""The server by its plain HTTP messages: encode, decode, who is refused, and a labelling tool's requests."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageDraw

from saqsam.api import load
from saqsam.datasets.masks import Rle, decode_mask
from saqsam.errors import UsageError
from saqsam.sam import Sam
from saqsam.scenes import make_scene
from saqsam.segment.zoom import crops_for
from saqsam.serve.anylabeling import outlines
from saqsam.serve.gate import Gate
from saqsam.serve.routes import MOST_BYTES
from saqsam.serve.start import Serving, reachable, start

SCENE = make_scene(np.random.default_rng(40), (96, 128)).image


def as_png() -> bytes:
    kept = io.BytesIO()
    Image.fromarray(SCENE).save(kept, format="PNG")
    return kept.getvalue()


@contextmanager
def listening(model: str) -> Iterator[Serving]:
    found = start([model], port=0)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.close()


@pytest.fixture(scope="module")
def serving(packed_sam: Sam) -> Iterator[Serving]:
    with listening(str(packed_sam.file)) as found:
        yield found


class Answer:
    def __init__(self, status: int, reason: str, headers: Any, body: bytes) -> None:
        self.status, self.reason, self.headers, self.body = status, reason, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(serving: Serving, path: str, body: bytes | None = None, **headers: str) -> Answer:
    connection = HTTPConnection("127.0.0.1", serving.server.server_address[1], timeout=60)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if body is None else "POST", path, body, given)
    response = connection.getresponse()
    found = Answer(response.status, response.reason, response.headers, response.read())
    connection.close()
    return found


def decoded(code: dict[str, Any]) -> Any:
    return decode_mask(Rle(size=code["size"], counts=code["counts"].encode("ascii")))


def test_masks_are_those_of_segment(serving: Serving, packed_sam: Sam) -> None:
    image = ask(serving, "/api/images?wait=1", as_png()).json
    assert (image["state"], image["width"], image["height"]) == ("ready", 128, 96)
    asked = {"image": image["image"], "points": [[[60.5, 40.0]], [[20, 20]]], "masks": "all"}
    prompts = ask(serving, "/api/decode", json.dumps(asked).encode()).json["prompts"]
    assert [[one["mask"] for one in row] for row in prompts] == [[1, 2, 3]] * 2
    # The same engine on the same embedding: PyTorch's would be equal up to rounding only.
    engine = Sam(serving.encodings.models[0].model, "engine")  # type: ignore[union-attr]
    expected = engine.segment(SCENE, points=[[[60.5, 40.0]], [[20, 20]]], all_masks=True)
    found = [decoded(one["segmentation"]) for row in prompts for one in row]
    assert np.array_equal(found, expected.masks)
    assert [one["area"] for row in prompts for one in row] == [int(mask.sum()) for mask in expected.masks]

    asked = {"image": image["image"], "boxes": [[10, 10, 90, 80]], "masks": [3, 0], "format": "logits"}
    answer = ask(serving, "/api/decode", json.dumps(asked).encode())
    shape = json.loads(answer.headers["X-Saqsam-Shape"])
    logits = np.frombuffer(answer.body, "<f4").reshape(shape)
    single = engine.segment(SCENE, boxes=[[10, 10, 90, 80]])
    assert np.array_equal(logits[0, 1], single.low_res_logits[0, 0].numpy())
    assert np.allclose(json.loads(answer.headers["X-Saqsam-Iou-Scores"])[0][1], single.iou_scores[0])

    asked = {"image": image["image"], "boxes": [[10, 10, 50, 40]], "zoom": True}
    answer = ask(serving, "/api/decode", json.dumps(asked).encode()).json["prompts"]
    expected = engine.segment(SCENE, boxes=[[10, 10, 50, 40]], zoom=True)
    assert np.array_equal(decoded(answer[0][0]["segmentation"]), expected.masks[0])


def test_a_sam_2_gives_object_scores_and_the_single_mask_of_segment() -> None:
    with listening("nano-sam2") as serving:
        image = ask(serving, "/api/images?wait=1", as_png()).json["image"]
        points = [[[60.5, 40.0]], [[20, 20]], [[100, 70]]]
        asked = {"image": image, "points": points, "masks": [1, 0]}
        found = ask(serving, "/api/decode", json.dumps(asked).encode()).json["prompts"]
        logits = ask(serving, "/api/decode", json.dumps({**asked, "format": "logits"}).encode())
    expected = load("nano-sam2").segment(SCENE, points=points)
    assert np.array_equal([decoded(row[1]["segmentation"]) for row in found], expected.masks)
    scores = np.asarray(expected.object_scores)
    assert np.allclose([[one["object_score"] for one in row] for row in found], scores[:, None])
    assert np.allclose(json.loads(logits.headers["X-Saqsam-Object-Scores"]), scores)


BAD: list[tuple[str, bytes, int, str]] = [
    ("/api/images", b"no picture", 422, "not an image"),
    ("/api/images?model=7", b"", 400, "from 0 to 0"),
    ("/api/decode", b"{", 400, "not JSON"),
    ("/api/decode", b'{"image": "0", "boxes": [[0, 0, 1, 1]]}', 404, "send it again"),
    ("/api/decode", b'{"image": "0", "masks": [4]}', 400, "masks"),
    ("/api/decode", b'{"image": "0", "zoom": "no"}', 400, "zoom"),
    ("/api/decode", b'{"image": "0", "box": [0, 0, 1, 1]}', 400, "keys"),
    ("/", b"", 404, "nothing can be sent"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), BAD)
def test_bad_requests_are_told(serving: Serving, path: str, body: bytes, status: int, words: str) -> None:
    answer = ask(serving, path, body)
    assert (answer.status, words in answer.json["error"]) == (status, True)


def test_a_model_made_for_crops_answers_boxes_on_them() -> None:
    boxes, points = [[10, 10, 50, 40], [70, 30, 126, 90]], [[[20.5, 60]], [[100, 50]]]
    with listening("small") as serving:
        image = ask(serving, "/api/images?wait=1", as_png()).json["image"]
        asked = {"image": image, "boxes": boxes, "points": points, "masks": [0, 2]}
        found = ask(serving, "/api/decode", json.dumps(asked).encode()).json["prompts"]
        answer = ask(serving, "/api/decode", json.dumps({**asked, "format": "logits"}).encode())
        off = {"image": image, "boxes": boxes, "points": points, "zoom": False}
        whole = ask(serving, "/api/decode", json.dumps(off).encode()).json["prompts"]
        mark = {"type": "rectangle", "data": boxes[1], "label": 1}
        asked = {"model": "small", "image": base64.b64encode(as_png()).decode(), "params": {"marks": [mark]}}
        shapes = ask(serving, "/v1/predict", json.dumps(asked).encode()).json["data"]["shapes"]
        engine = Sam(serving.encodings.models[0].model, "engine", zoom=True, clip_to_box=True)  # type: ignore[union-attr]
    single = engine.segment(SCENE, boxes=boxes, points=points)
    three = engine.segment(SCENE, boxes=boxes, points=points, all_masks=True)
    masks = [[decoded(one["segmentation"]) for one in row] for row in found]
    assert np.array_equal([row[0] for row in masks], single.masks)
    assert np.array_equal([row[1] for row in masks], three.masks[1::3])
    without = engine.segment(SCENE, boxes=boxes, points=points, zoom=False)
    assert np.array_equal([decoded(row[0]["segmentation"]) for row in whole], without.masks)
    assert not np.array_equal(without.masks, single.masks)
    crops = crops_for(single.prompts, *SCENE.shape[:2])
    windows = json.loads(answer.headers["X-Saqsam-Windows"])
    assert all(windows[row] == list(crop.window) for crop in crops for row in crop.rows)
    assert float(answer.headers["X-Saqsam-Encode-Seconds"]) == 0  # the first question had them encoded
    outline = np.concatenate([one["points"] for one in shapes])
    assert ((outline >= boxes[1][:2]) & (outline <= boxes[1][2:])).all()


def test_prompts_beside_the_image_are_told(serving: Serving) -> None:
    image = ask(serving, "/api/images?wait=1", as_png()).json["image"]
    asked = {"image": image, "points": [[[500, 500]]]}
    answer = ask(serving, "/api/decode", json.dumps(asked).encode())
    assert (answer.status, "500" in answer.json["error"]) == (422, True)


def test_an_upload_is_bounded_before_it_is_read(serving: Serving) -> None:
    connection = HTTPConnection("127.0.0.1", serving.server.server_address[1], timeout=60)
    connection.putrequest("POST", "/api/images")
    connection.putheader("Content-Length", str(MOST_BYTES + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert response.headers["Connection"] == "close"
    connection.close()


def test_the_page_is_isolated_and_pages_of_others_are_refused(serving: Serving) -> None:
    page = ask(serving, "/")
    assert page.status == 200
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert page.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in page.headers
    assert ask(serving, "/", If_None_Match=page.headers["ETag"]).status == 304
    assert ask(serving, "/", Host="attacker.example").status == 403
    assert ask(serving, "/manifest.json", Origin="http://attacker.example").status == 403
    assert ask(serving, "/api/images", b"", Sec_Fetch_Site="cross-site").status == 403
    for path in ("/../pyproject.toml", "/%2e%2e/start.py", "/examples/../../x", "//etc/passwd"):
        assert ask(serving, path).status == 404


def test_an_open_address_wants_its_token(serving: Serving) -> None:
    serving.server.gate = Gate("secret")
    try:
        assert ask(serving, "/", Host="elsewhere:8000").status == 200  # the page alone tells nothing
        assert ask(serving, "/manifest.json").status == 401
        assert ask(serving, "/api/images", as_png(), Authorization="Bearer wrong").status == 401
        assert ask(serving, "/manifest.json?token=secret").status == 200
        assert ask(serving, "/manifest.json", Authorization="Bearer secret").status == 200
        assert ask(serving, "/v1/models", Token="secret").status == 200
        basic = base64.b64encode(b"anyone:secret").decode()
        assert ask(serving, "/v1/models", Authorization=f"Basic {basic}").status == 200
    finally:
        serving.server.gate = Gate(None)


def test_the_address_shown_can_be_reached() -> None:
    assert reachable("localhost") == "localhost"
    shown = reachable("0.0.0.0")
    assert shown != "0.0.0.0"
    with socket.create_server(("0.0.0.0", 0)) as server:
        socket.create_connection((shown, server.getsockname()[1]), timeout=5).close()


def test_x_anylabeling_gets_outlines(serving: Serving, packed_sam: Sam) -> None:
    assert ask(serving, "/health").json["status"] == "healthy"
    (name,) = ask(serving, "/v1/models").json["data"]
    assert ask(serving, f"/v1/models/{name}/info").json["data"]["model_id"] == name

    def sent(model: str, image: str, marks: list[Any]) -> Answer:
        params = {"marks": marks, "epsilon_factor": 0.0, "conf_threshold": 0.0}
        asked = {"model": model, "image": image, "params": params}
        return ask(serving, "/v1/predict", json.dumps(asked).encode())

    def refused(*asked: Any) -> tuple[int, str]:
        """The tool shows the status and its reason, and nothing of the body."""
        answer = sent(*asked)
        error = answer.json["error"]
        assert (answer.json["success"], answer.reason) == (False, error["message"])
        return answer.status, error["code"]

    image = "data:image/png;base64," + base64.b64encode(as_png()).decode()
    box = {"type": "rectangle", "data": [90, 80, 10, 10], "label": 1}
    shapes = sent(name, image, [box]).json["data"]["shapes"]
    assert {shape["shape_type"] for shape in shapes} == {"polygon"}
    assert all(shape["points"][0] == shape["points"][-1] for shape in shapes)
    assert sent(name, image, []).json["data"]["shapes"] == []
    assert refused("other", image, [box]) == (404, "MODEL_NOT_FOUND")
    assert refused(name, "AAAA", [box]) == (422, "INVALID_IMAGE")
    assert refused(name, image, [{"type": "circle"}]) == (422, "INFERENCE_ERROR")


def test_outlines_follow_the_edges_of_pixels() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:10, 3:20] = True
    mask[15:18, 22:28] = True
    mask[19, 29] = True  # too small to be told
    large, small = outlines(mask, 0.0)
    again = Image.new("1", (30, 20))
    for outline in (large, small):
        (x0, y0), (x1, y1) = np.min(outline, axis=0), np.max(outline, axis=0)
        ImageDraw.Draw(again).rectangle((x0, y0, x1 - 1, y1 - 1), fill=1)
    mask[19, 29] = False
    assert np.array_equal(np.array(again), mask)
    assert outlines(np.zeros((4, 4), dtype=bool), 0.001) == []


def test_a_taken_port_is_told(serving: Serving) -> None:
    with pytest.raises(UsageError, match="cannot be listened at"):
        start(["nano"], port=serving.server.server_address[1])


def test_the_command_tells_its_address_and_ends_at_ctrl_c() -> None:
    words = [sys.executable, "-m", "saqsam", "serve", "nano", "--no-open", "--port", "0"]
    # A shell that works in the background ignores interrupts, and what it starts would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
        connection.request("GET", "/manifest.json")
        assert json.loads(connection.getresponse().read())["models"][0]["name"] == "nano"
        connection.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("ended\n")
