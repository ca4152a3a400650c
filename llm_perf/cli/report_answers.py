"""Views of stored answers of ``llm-perf train``, ``policy``, ``plan --host`` and ``plan --train``, asked anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.errors import SpecError

S = TypeVar("S", bound=Spec)


def answer_view(data: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """The view of a file of one of these commands, None where it is of another.

    Raises:
        SpecError: it is of one of them and not complete.
    """
    first = data.get("comparison", [data])
    first = first[0] if isinstance(first, list) and first else {}
    if isinstance(first, dict) and {"inputs", "step"} <= first.keys():
        return _training(name)
    question = data.get("question")
    if not isinstance(question, dict):
        return None
    if "policy" in data and "searched" in data:
        return _policy(data, question, name)
    if "without_card" in data and "cards" in data:
        return _cards(data, question, name)
    if "tokens" in question and "deadline" in question:
        return _training_plan(data, question, name)
    return None


def _asked(kind: type[S], question: Mapping[str, Any], name: str) -> S:
    """The question of a file; a field that is null was not asked for."""
    return files.build(kind, {key: value for key, value in question.items() if value is not None}, "", name)


def _training(name: str) -> dict[str, Any]:
    from llm_perf.analysis.economics import gpu_price
    from llm_perf.analysis.training import predict_training
    from llm_perf.analysis.training_advice import training_changes_that_fit
    from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
    from llm_perf.cli.inputs import questions
    from llm_perf.explore.report_view import report_view
    from llm_perf.report.command import command_in_lines
    from llm_perf.report.training_text import training_comparison, training_report

    asked = questions((), name, {}, TrainingInputs)
    results = [predict_training(build_training_scenario(one)) for one in asked]
    first, one = results[0], asked[0]
    title = f"Training {first.scenario.model.name.rpartition('/')[2]}"
    if len(results) > 1:
        return report_view("training", title, training_comparison(results))
    price = gpu_price(first.scenario.gpu.name, one.cost_per_gpu_hour, one.prices)
    report = training_report(first, training_changes_that_fit(one, first), price)
    command = command_in_lines("llm-perf train", one.model_dump(exclude_none=True, exclude_defaults=True))
    return report_view("training", f"{title} on {first.scenario.gpu.name}", report, command)


def _policy(data: Mapping[str, Any], question: Mapping[str, Any], name: str) -> dict[str, Any]:
    from llm_perf.explore.report_view import report_view
    from llm_perf.report.policy_json import policy_object
    from llm_perf.report.policy_text import policy_report
    from llm_perf.search.policy import PolicyQuestion, search_policy

    answer = search_policy(_asked(PolicyQuestion, question, name))
    title = f"Best policy for {answer.question.model} on {answer.question.gpu}"
    same = data["policy"] == policy_object(answer)["policy"]
    return report_view("policy", title, policy_report(answer), notes=_otherwise(same, name, "another policy"))


def _cards(data: Mapping[str, Any], question: Mapping[str, Any], name: str) -> dict[str, Any]:
    from llm_perf.explore.report_view import report_view
    from llm_perf.report.cards_text import cards_report
    from llm_perf.search.cards import CardsQuestion, find_cards

    stored = _gpus(data["cards"], name)
    answer = find_cards(_asked(CardsQuestion, question, name), max(len(stored), 1))
    now = [(one.gpu.name, one.count) for one in answer.best]
    title = f"A card for {answer.question.host}"
    notes = _otherwise(stored == now, name, "other cards")
    return report_view("cards", title, cards_report(answer), notes=notes)


def _training_plan(data: Mapping[str, Any], question: Mapping[str, Any], name: str) -> dict[str, Any]:
    from llm_perf.explore.report_view import report_view
    from llm_perf.report.plan_training import training_plan_lines
    from llm_perf.search.plan_training import TrainingPlanQuestion, plan_training

    stored = _gpus(data.get("best"), name, "inputs")
    answer = plan_training(_asked(TrainingPlanQuestion, question, name), max(len(stored), 1))
    now = [(one.inputs.gpu, one.num_gpus) for one in answer.best]
    title = f"Machines to train {answer.question.model}"
    notes = _otherwise(stored == now, name, "other machines")
    return report_view("training plan", title, "\n".join(training_plan_lines(answer)), notes=notes)


def _gpus(found: Any, name: str, under: str = "") -> list[tuple[Any, Any]]:
    """GPU and number of each stored entry.

    Raises:
        SpecError: it is no list of them.
    """
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SpecError(f"{name}: is no complete plan")
    held: Iterator[Any] = (one.get(under) or {} if under else one for one in found)
    return [(where.get("gpu"), one.get("num_gpus")) for where, one in zip(held, found, strict=True)]


def _otherwise(same: bool, name: str, what: str) -> tuple[str, ...]:
    return () if same else (f"{name} names {what} than this version does, shown here",)
