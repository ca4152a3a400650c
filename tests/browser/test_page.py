"""The page in a real Chromium: it loads without an error or a request elsewhere, and shows the command line's numbers."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from llm_perf.analysis.economics import cost_of, gpu_price
from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.cli.main import run
from llm_perf.explore.controls import EXAMPLES
from llm_perf.report.inference_text import dollars
from llm_perf.report.units import gib, rate, seconds
from tests.browser.tab import TILES, Tab, asks


def expected(**inputs: Any) -> list[str]:
    """The first numbers of ``llm-perf infer`` for these flags."""
    result = predict_inference(build_scenario(InferenceInputs(**inputs)))
    decode = None if result.decode is None else result.decode.latency_per_token_s
    gpu = result.memory.gpu
    return [
        "yes" if result.feasible else "no",
        seconds(result.prefill.latency_s),
        "-" if decode is None else seconds(decode),
        seconds(result.total_latency_s),
        rate(result.total_throughput_tokens_per_s),
        f"{gib(float(gpu.total_bytes))} of {gib(float(gpu.capacity_bytes))}",
        f"{result.max_batch_size:,}",
        _cost(result),
    ]


def factor_of(**inputs: Any) -> float:
    """By how much a measured total may be off, from the ends of the interval that ``infer --json`` has."""
    ends = predict_inference(build_scenario(InferenceInputs(**inputs))).interval
    assert ends is not None
    low, high = ends.total_s or (1.0, 1.0)
    return float((high / low) ** 0.5)


def _cost(result: Any) -> str:
    price = gpu_price(result.scenario.gpu.name, None, None)
    return "no price" if price is None else dollars(cost_of(result, price).per_million_tokens)


STEPS = [
    ("model", "meta-llama/Llama-2-7b-hf"), ("gpu", "l4-24gb"), ("system", ""), ("batch_size", "4"), ("prompt_len", "256"),
    ("gen_len", "64"), ("gpu", "h200-sxm-141gb"), ("kv_format", "fp8"), ("weight_format", "fp8"), ("batch_size", "32"),
    ("system", "vllm"), ("tp_size", "2"), ("weight_format", ""), ("kv_format", ""), ("tp_size", ""),
    ("system", "zero_inference"), ("kv_offload", "on"), ("cpu_offload", "on"), ("gpu", "t4-16gb"), ("gen_len", "8"),
    ("cpu_offload", ""), ("disk_offload", "on"),
]  # fmt: skip


def test_interactions_give_the_command_lines_numbers(tab: Tab, address: str) -> None:
    tab.open(address)
    asked: dict[str, Any] = {"model": "facebook/opt-175b", "gpu": "t4-16gb", "system": "zero_inference"}
    assert tab.tiles() == expected(**asked)
    asked["system"] = ""  # of the opening example, which the first model that is chosen leaves
    for name, value in STEPS:
        tab.choose(name, value)
        asked[name] = value
        given = {field: _typed(text) for field, text in asked.items() if text}
        assert not tab.page.locator("#error").is_visible(), (
            name,
            value,
            tab.page.locator("#error").text_content(),
        )
        assert tab.tiles() == expected(**given), (name, value)
        query = {field: found[0] for field, found in parse_qs(urlsplit(tab.page.url).query).items()}
        assert query == {field: text for field, text in asked.items() if text}
    assert len(STEPS) >= 20
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.requests} == {urlsplit(address).netloc}


def _typed(text: str) -> Any:
    return True if text == "on" else int(text) if text.isdigit() else text


def test_the_address_is_the_state(tab: Tab, address: str) -> None:
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB&batch_size=3&attn_sparsity=0.5&system=flexgen")
    assert tab.tiles() == expected(
        model="opt-1.3b", gpu="T4-16GB", batch_size=3, attn_sparsity=0.5, system="flexgen"
    )
    assert tab.page.locator("#control-batch_size").input_value() == "3"
    with tab.page.expect_response("**/api/view*"):
        tab.page.get_by_role("button", name="Remove attn_sparsity = 0.5").click()
    tab.choose("batch_size", "6")
    changed = expected(model="opt-1.3b", gpu="T4-16GB", batch_size=6, system="flexgen")
    assert tab.tiles() == changed
    with tab.page.expect_response("**/api/view*"):
        tab.page.go_back()
    tab.page.wait_for_function("() => document.querySelector('#control-batch_size').value === '3'")
    with tab.page.expect_response("**/api/view*"):
        tab.page.go_forward()
    tab.page.wait_for_function(
        f"() => document.querySelectorAll('{TILES}')[1].textContent === '{changed[1]}'"
    )
    assert tab.complaints == []


def test_wrong_input_says_what_the_command_line_says(
    tab: Tab, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB")
    tab.page.locator("#control-tp_size").fill("3")
    tab.page.locator("#error").wait_for(state="visible")
    assert run(["infer", "--model", "opt-1.3b", "--gpu", "T4-16GB", "--tp-size", "3"]) == 2
    assert f"llm-perf: {tab.page.locator('#error').text_content()}\n" == capsys.readouterr().err
    assert all("400" in complaint for complaint in tab.complaints)  # Chromium reports the status itself
    tab.choose("tp_size", "2")
    assert not tab.page.locator("#error").is_visible()


def test_the_keyboard_reaches_everything(tab: Tab, address: str) -> None:
    tab.open(address)
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    names = []
    for _ in range(15):
        tab.page.keyboard.press("Tab")
        names.append(tab.page.evaluate("document.activeElement.name"))
        assert tab.page.evaluate("document.activeElement.labels.length") == 1
        assert tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert names[:7] == ["task", "model", "gpu", "system", "batch_size", "prompt_len", "gen_len"]
    tab.page.locator("#control-batch_size").focus()
    with tab.page.expect_response("**/api/view*"):
        tab.page.keyboard.type("2")
    tab.page.wait_for_function(
        "() => !document.getElementById('status').textContent.startsWith('Predicting')"
    )
    start = {"model": "facebook/opt-175b", "gpu": "t4-16gb", "system": "zero_inference"}
    assert tab.tiles() == expected(**start, batch_size=2)
    for figure in tab.page.locator(".figure").all():
        assert figure.get_attribute("role") == "img"
        assert figure.get_attribute("aria-label")


def test_a_report_needs_no_server(tab: Tab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for gpu in ("T4-16GB", "H200-SXM-141GB"):
        assert run(["infer", "--model", "opt-175b", "--gpu", gpu, "--ds-zero", "3", "--json"]) == 0
        names.append(str(tmp_path / f"{gpu}.json"))
        Path(names[-1]).write_text(capsys.readouterr().out)
    page = tmp_path / "page.html"
    assert run(["report", *names, "--html", str(page)]) == 0
    tab.open(page.as_uri())
    assert tab.tiles() == expected(model="opt-175b", gpu="T4-16GB", ds_zero=3)
    tab.page.locator("#choose-result").select_option("2")
    assert tab.tiles() == expected(model="opt-175b", gpu="H200-SXM-141GB", ds_zero=3)
    assert tab.page.url.endswith("?result=2")
    tab.open(tab.page.url)
    assert tab.tiles()[1] == seconds(json.loads(Path(names[1]).read_text())["prefill"]["latency_s"])
    assert tab.complaints == []
    assert {url.partition("?")[0] for url in tab.requests if not url.startswith(("data:", "blob:"))} == {
        page.as_uri()
    }


def test_a_wrong_value_is_marked_where_it_stands(tab: Tab, address: str) -> None:
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB")
    field = tab.page.locator("#control-tp_size")
    field.fill("3")
    tab.page.locator("#error").wait_for(state="visible")
    assert field.get_attribute("aria-invalid") == "true"
    described = tab.page.locator(f"#{field.get_attribute('aria-describedby')}")
    assert described.text_content() == tab.page.locator("#error").text_content()
    wrong = tab.page.locator("#control-pp_size").evaluate("one => getComputedStyle(one).borderTopColor")
    assert field.evaluate("one => getComputedStyle(one).borderTopColor") != wrong
    assert tab.page.locator("[aria-invalid=true]").count() == 1
    tab.choose("tp_size", "2")
    assert tab.page.locator("[aria-invalid=true]").count() == 0
    assert described.text_content() == ""


def test_a_number_that_is_typed_is_one_step_back(tab: Tab, address: str) -> None:
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB&batch_size=5")
    field = tab.page.locator("#control-batch_size")
    for text in ("1", "12", "128"):
        with tab.page.expect_response(lambda answer, text=text: asks(answer.url, "batch_size", text)):
            field.fill(text)
    field.press("Tab")
    with tab.page.expect_response(lambda answer: asks(answer.url, "batch_size", "5")):
        tab.page.go_back()
    tab.page.wait_for_function("() => document.querySelector('#control-batch_size').value === '5'")


def test_gpus_side_by_side(tab: Tab, address: str) -> None:
    tab.open(f"{address}?model=llama-3.1-8b&gpu=l4-24gb&batch_size=4")
    assert tab.page.locator("#card-comparison").count() == 0
    for gpu in ("h200-sxm-141gb", "t4-16gb"):
        with tab.page.expect_response("**/api/view*"):
            tab.page.locator("#also").select_option(gpu)
        tab.page.get_by_role("button", name=f"Remove gpu = {gpu}").wait_for()
    gpus = ["l4-24gb", "h200-sxm-141gb", "t4-16gb"]
    assert parse_qs(urlsplit(tab.page.url).query)["gpu"] == gpus
    tab.page.wait_for_selector("#card-comparison th >> text=T4-16GB")
    cells = [
        row.locator("td").all_text_contents() for row in tab.page.locator("#card-comparison tbody tr").all()
    ]
    columns = [[text.replace("\u00a0", " ") for text in column] for column in zip(*cells, strict=True)]
    assert [column[:-1] for column in columns] == [
        expected(model="llama-3.1-8b", gpu=gpu, batch_size=4) for gpu in gpus
    ]
    factors = [factor_of(model="llama-3.1-8b", gpu=gpu, batch_size=4) for gpu in gpus]
    assert [column[-1] for column in columns] == [f"x/{factor:.2f}" for factor in factors]
    assert "--gpu h200-sxm-141gb --gpu t4-16gb" in str(tab.page.locator("code.command").text_content())
    tab.choose("batch_size", "8")  # another question, the same GPUs
    assert parse_qs(urlsplit(tab.page.url).query)["gpu"] == gpus
    with tab.page.expect_response("**/api/view*"):
        tab.page.get_by_role("button", name="Remove gpu = h200-sxm-141gb").click()
    assert parse_qs(urlsplit(tab.page.url).query)["gpu"] == ["l4-24gb", "t4-16gb"]
    assert tab.complaints == []


def test_examples_and_the_command_to_copy(tab: Tab, address: str) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.open(address)
    for text, query in EXAMPLES:
        with tab.page.expect_response("**/api/view*") as answer:
            tab.page.get_by_role("link", name=text).click()
        assert answer.value.status == 200
        assert parse_qs(urlsplit(tab.page.url).query) == parse_qs(query)
    tab.page.wait_for_function("() => document.title.includes('flexgen')")
    tab.page.get_by_role("button", name="Copy").click()
    tab.page.get_by_role("button", name="Copied").wait_for()
    copied = tab.page.evaluate("navigator.clipboard.readText()")
    assert copied == tab.page.locator("code.command").text_content()
    assert run(shlex.split(copied)[1:]) == 0
    assert tab.complaints == []


def test_a_new_answer_moves_nothing_away(tab: Tab, address: str) -> None:
    """Tables that were opened stay open, and the page stays where it was scrolled to."""
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB")
    tab.page.locator("#table-front summary").click()
    tab.page.locator("#card-money").scroll_into_view_if_needed()
    before = tab.page.evaluate("scrollY")
    assert before > 500
    form = "document.querySelector('#control-batch_size')"
    with tab.page.expect_response("**/api/view*"):
        tab.page.evaluate(
            f"() => {{ {form}.value = '2'; {form}.dispatchEvent(new Event('input', {{bubbles: true}})); }}"
        )
    tab.page.wait_for_function("() => document.title.includes('batch 2')")
    assert abs(tab.page.evaluate("scrollY") - before) <= 60
    assert tab.page.locator("#table-front table").is_visible()


def test_a_page_elsewhere_reads_nothing(browser: Any, address: str) -> None:
    context = browser.new_context()
    context.route("http://elsewhere.example/", lambda route: route.fulfill(body="<p>elsewhere</p>"))
    page = context.new_page()
    page.goto("http://elsewhere.example/")
    question = f"{address}api/view?model=opt-1.3b&gpu=t4"
    for options in ("{}", "{mode: 'no-cors'}"):
        found = page.evaluate(
            f"() => fetch('{question}', {options}).then(() => 'read', (error) => error.name)"
        )
        assert found == "TypeError"
    assert page.evaluate(FRAMED, address) == "empty"
    context.close()


def test_a_name_that_is_made_to_point_here_gets_nothing(browser: Any, address: str) -> None:
    """DNS rebinding: the browser takes this server for the other site's own."""
    rules = "--host-resolver-rules=MAP elsewhere.example 127.0.0.1"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    rebound = browser.browser_type.launch(executable_path=chromium, args=["--no-sandbox", rules])
    port = urlsplit(address).port
    answer = rebound.new_page().goto(f"http://elsewhere.example:{port}/api/view?model=opt-1.3b&gpu=t4")
    assert (answer.status, answer.text()) == (400, "Invalid host header")
    rebound.close()


FRAMED = """(address) => new Promise((done) => {
  const frame = document.createElement('iframe');
  frame.src = address;
  frame.onload = () => { try { done(frame.contentDocument ? 'read' : 'empty'); } catch { done('empty'); } };
  document.body.append(frame);
})"""


def test_the_answer_is_that_of_the_command_line(
    tab: Tab, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB")
    assert run(["infer", "--model", "opt-1.3b", "--gpu", "T4-16GB"]) == 0
    lines = capsys.readouterr().out.splitlines()[:5]
    shown = tab.page.locator("#card-answer .lines dd").all_text_contents()
    for line, text in zip(lines, shown, strict=True):
        assert text.startswith(line.partition(":")[2].strip())


def test_training_has_a_page(tab: Tab, address: str) -> None:
    question = TrainingInputs(model="llama-3-8b", gpu="a100-sxm-80gb", num_gpus=8, framework="fsdp")
    result = predict_training(build_training_scenario(question))
    tab.open(f"{address}?task=train&model=llama-3-8b&gpu=a100-sxm-80gb&num_gpus=8&framework=fsdp")
    assert tab.tiles()[1:3] == [seconds(result.step_time_s), rate(result.throughput_tokens_per_s)]
    tab.choose("lora_rank", "16")
    tuned = predict_training(build_training_scenario(question.replace(lora_rank=16)))
    assert tab.tiles()[1:3] == [seconds(tuned.step_time_s), rate(tuned.throughput_tokens_per_s)]
    with tab.page.expect_response(lambda answer: "/api/view" in answer.url and "task" not in answer.url):
        tab.page.locator("#control-task").select_option("")
    tab.page.wait_for_function(
        "() => !document.getElementById('status').textContent.startsWith('Predicting')"
    )
    assert tab.page.locator("#control-gen_len").is_visible()
    assert tab.page.locator("#control-lora_rank").count() == 0
    assert tab.complaints == []


def test_a_divided_model_has_controls(tab: Tab, address: str) -> None:
    tab.open(f"{address}?model=qwen3-30b-a3b&gpu=rtx-4090-24gb&system=llama_cpp&weight_format=q4_k_m")
    tab.choose("n_cpu_moe", "all")
    wanted = {
        "model": "qwen3-30b-a3b",
        "gpu": "rtx-4090-24gb",
        "system": "llama_cpp",
        "weight_format": "q4_k_m",
    }
    assert tab.tiles() == expected(**wanted, n_cpu_moe="all")


def test_up_to_four_answers_stand_side_by_side(tab: Tab, address: str) -> None:
    """They are part of the address, and each leads back to itself."""
    tab.open(f"{address}?model=opt-1.3b&gpu=T4-16GB")
    first = tab.tiles()
    for batch in ("2", "4", "8"):
        tab.page.locator("#keep").click()
        tab.choose("batch_size", batch)
    tab.page.wait_for_function("() => document.querySelectorAll('#kept thead th').length === 4")
    assert tab.page.locator("#keep").is_disabled()
    columns = (
        "column => [...document.querySelectorAll('#kept tbody tr')].map(row => row.cells[column].textContent)"
    )
    assert tab.page.evaluate(columns, 1) == tab.tiles()
    assert tab.page.evaluate(columns, 2) == first
    other = Tab(tab.context.browser)
    other.open(tab.page.url)
    other.page.wait_for_function("() => document.querySelectorAll('#kept thead th').length === 4")
    assert other.page.evaluate(columns, 2) == first
    other.close()
    tab.choose("weight_format", "fp8")
    assert tab.page.locator("#kept thead th").first.text_content().endswith(", weight format fp8")
    tab.page.locator("#kept thead button").first.click()
    tab.page.wait_for_function("() => document.querySelectorAll('#kept thead th').length === 3")
    tab.page.locator("#kept thead a").first.click()
    tab.page.wait_for_function("() => document.getElementById('control-batch_size').value === '2'")
    assert tab.complaints == []
