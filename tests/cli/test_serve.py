"""``llm-perf serve``: the command line's numbers and messages over HTTP, and no request lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_perf.cli.main import run
from llm_perf.report.units import rate, seconds
from tests.serving import started


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def view(port: int, parameters: dict[str, str] | list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
    status, _, body = get(port, f"/api/view?{urlencode(parameters)}")
    found = json.loads(body)
    assert isinstance(found, dict)
    return status, found


def test_a_view_is_infer_json(port: int, llm_perf: Any) -> None:
    status, found = view(port, {"model": "facebook_opt-175b", "gpu": "T4-16GB", "ds_zero": "3"})
    assert status == 200
    printed = llm_perf(
        "infer", "--model", "facebook_opt-175b", "--gpu", "T4-16GB", "--ds-zero", "3", "--json"
    ).json
    assert found["result"] == printed


def test_several_gpus_are_those_of_a_repeated_flag(port: int, llm_perf: Any) -> None:
    gpus = ["h200-sxm-141gb", "t4-16gb", "l4-24gb"]
    status, found = view(
        port, [("model", "llama-3.1-8b"), *(("gpu", gpu) for gpu in gpus), ("gen_len", "16")]
    )
    assert status == 200
    (card,) = [card for card in found["cards"] if card["name"] == "comparison"]
    table = next(part for part in card["parts"] if part["kind"] == "table")
    rows = {row["cells"][0]["text"]: [cell["text"] for cell in row["cells"][1:]] for row in table["rows"]}
    flags = [word for gpu in gpus for word in ("--gpu", gpu)]
    printed = llm_perf("infer", "--model", "llama-3.1-8b", *flags, "--gen-len", "16", "--json").json
    for number, one in enumerate(printed["comparison"]):
        assert rows["Fits"][number] == ("yes" if one["feasible"] else "no")
        assert rows["Time to first token"][number] == seconds(one["prefill"]["latency_s"])
        assert rows["Whole batch"][number] == seconds(one["total"]["latency_s"])
        assert rows["Throughput"][number] == rate(one["total"]["throughput_tokens_per_s"])
    assert rows["Fits"] == ["yes", "no", "yes"]
    assert any("T4-16GB:" in part.get("text", "") for part in card["parts"])  # what is missing there
    assert found["result"]["inputs"]["gpu"] == gpus[0]


def test_500_requests_at_once(port: int) -> None:
    """Every one is answered, with the answer to its own question."""
    questions = [
        {
            "model": "opt-1.3b",
            "gpu": "T4-16GB",
            "batch_size": str(number % 20 + 1),
            "gen_len": str(8 + number // 20 % 3),
        }
        for number in range(500)
    ]
    with ThreadPoolExecutor(500) as pool:
        answers = list(pool.map(lambda question: view(port, question), questions))
    assert [status for status, _ in answers] == [200] * 500
    for question, (_, found) in zip(questions, answers, strict=True):
        inputs = found["result"]["inputs"]
        assert (inputs["batch_size"], inputs["gen_len"]) == (
            int(question["batch_size"]),
            int(question["gen_len"]),
        )


SWITCHES = {"on": "--", "true": "--", "1": "--", "off": "--no-", "false": "--no-", "0": "--no-"}
PLAUSIBLE = {"model": "opt-1.3b", "gpu": "T4-16GB"}
FLAGS = ["batch_size", "prompt_len", "gen_len", "tp_size", "pp_size", "kv_bits", "quant_bits", "ds_zero", "system",
         "percent", "expert_imbalance", "attn_sparsity", "kv_offload", "cpu_offload", "host", "model", "gpu"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(
        ["", " ", "-1", "0", "3", "5", "1e3", "nan", "inf", "on", "off", "x", "flexgen", "'", "\u2028", "1_0"]
    ),
    st.integers(-(10**30), 10**30).map(str),
    st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="/~.\0"), max_size=20),
)


@settings(max_examples=60)
@example({"prompt_len": "1048577"})
@example({"host": "-1"})
@example({"host": "2x epyc-9654"})
@example({"host": "dual epyc-9654"})
@example({"host": "-256gb"})
@example({"model": "llama3.1:8b"})
@example({"host": "ryzen-9-9950x-256gb"})
@given(st.dictionaries(st.sampled_from(FLAGS), VALUES, min_size=1, max_size=3))
def test_wrong_values_get_the_command_lines_message(port: int, given: dict[str, str]) -> None:
    asked = PLAUSIBLE | given
    status, found = view(port, asked)
    if any(name.endswith("offload") and value.lower() not in SWITCHES for name, value in asked.items()):
        assert status == 400
        assert "on or off" in found["error"] or "Invalid value" in found["error"]
        return
    code, message = _command_line(asked)
    if "in a request" in found.get("error", ""):  # a limit that the command line has not
        assert status == 400
        assert any(re.search(r"\d{4}", value.replace("_", "")) for value in given.values())
    elif code == 2:
        assert (status, found) == (400, {"error": message})
    else:
        assert code in (0, 3)
        assert status == 200


def _command_line(asked: dict[str, str]) -> tuple[int, str]:
    import io
    import os

    words = []
    for name, value in asked.items():
        flag = name.replace("_", "-")
        if name.endswith("offload"):
            words.append(f"{SWITCHES[value.lower()]}{flag}")
        else:
            words.append(f"--{flag}={value}")
    err = io.StringIO()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = run(["infer", "--json", *words])
    return code, err.getvalue().removeprefix("llm-perf: ").rstrip("\n")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([("foo", "1")], "unknown parameter 'foo'"),
        ([("model", "opt-1.3b"), ("model", "opt-30b")], "parameter 'model' is given twice"),
        ([("model", "/etc/passwd"), ("gpu", "t4")], "no files"),
        ([("model", "../x.yaml"), ("gpu", "t4")], "no files"),
        ([("model", "opt-1.3b"), ("gpu", "./t4.yaml")], "no files"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("prices", "/etc/passwd")], "unknown parameter 'prices'"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("profile", "x.yaml")], "unknown parameter 'profile'"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("percent", "x" * 4000)], "longer than"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("kv_offload", "maybe")], "expected on or off"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("batch_size", "2000000")], "at most 1048576 in a request"),
        ([], "--model is required"),
        ([("model", "opt-1.3b"), *[("gpu", "t4")] * 9], "compares at most 8 GPUs, got 9"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("gpu", "nope")], "unknown GPU 'nope'"),
        ([("model", "opt-1.3b"), ("gpu", "t4"), ("gpu", "/etc/passwd")], "no files"),
        ([("gpu", "l4"), ("gpu", "t4")], "--model is required"),
    ],
)
def test_what_only_a_request_can_have_wrong(
    port: int, parameters: list[tuple[str, str]], message: str
) -> None:
    status, found = view(port, parameters)
    assert status == 400
    assert message in found["error"]


def test_the_largest_request_is_bounded(port: int) -> None:
    largest = {"model": "opt-30b", "gpu": "T4-16GB", "system": "flexgen", "gpu_batch_size": "64", "num_gpu_batches": "4096",
               "prompt_len": "1000000", "gen_len": "48576", "allow_long_context": "on"}  # fmt: skip
    status, found = view(port, largest)
    assert status in (200, 400)
    assert len(json.dumps(found)) < 2_000_000


def test_headers_and_methods(port: int) -> None:
    for path in ("/", "/explorer.js", "/explorer.css", "/plotly.js", "/api/view"):
        _, headers, _ = get(port, path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    _, headers, _ = get(port, "/plotly.js")
    assert get(port, "/plotly.js", **{"If-None-Match": headers["etag"]})[0] == 304
    assert get(port, "/", method="POST")[0] == 405
    assert get(port, "/nothing")[0] == 404
    assert get(port, "/", Host="elsewhere.example")[0] == 400


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET",
     b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"],
)  # fmt: skip
def test_nobody_keeps_a_connection_by_sending_slowly(port: int, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(begun)
        slow.settimeout(0.5)
        give_up = time.monotonic() + 15
        while time.monotonic() < give_up:
            with contextlib.suppress(TimeoutError):
                if slow.recv(4096) == b"":
                    return
            try:
                slow.sendall(b"x" if begun else b"")
            except OSError:
                return
    pytest.fail("still connected after 15 s")


def test_a_connection_is_used_again(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/explorer.css")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        time.sleep(0.3)
    connection.close()


def test_a_taken_port(llm_perf: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = llm_perf("serve", "--port", str(taken.getsockname()[1]))
    assert done.code == 4
    assert done.err.count("\n") == 1
    assert "give another --port" in done.err


def test_wrong_ports(llm_perf: Any) -> None:
    assert "--port" in llm_perf("serve", "--port", "70000").error
    assert "--port" in llm_perf("serve", "--port", "x").error


def test_interrupted_it_ends_at_once_and_frees_the_port(tmp_path: Path) -> None:
    """Even while somebody is connected."""
    process, own = started(tmp_path)
    assert process.stderr is not None
    with socket.create_connection(("127.0.0.1", own)) as open_:
        open_.sendall(b"GET /")
        assert view(own, {"model": "opt-1.3b", "gpu": "t4"})[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert process.stderr.read().strip() == "llm-perf: interrupted"
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", own))
