"""The handbook's tables say what the product does: written by `pytest tests/docs --update-golden`, compared otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from tests.docs.reference_tables import field_table, metric_table, variable_table
from tests.exposition import operator_families, router_families

from inferencecluster import __main__ as operator
from inferencecluster.adapters.environment import Variable
from inferencecluster.api.crd import cluster_crd
from inferencecluster.controller import settings
from inferencecluster.render.trtllm.keys import SERVE_OPTIONS
from inferencecluster.render.trtllm.versions import SUPPORTED
from inferencecluster.router import __main__ as router
from inferencecluster.router import configuration
from inferencecluster.router.disaggregation import SINCE_REQUEST_ID, SINCE_SCHEDULE_STYLE

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PROCESSES = [
    pytest.param("operator", settings.VARIABLES, id="operator"),
    pytest.param("router", configuration.VARIABLES, id="router"),
]
FIELDS_HEAD = """# Every field of an InferenceCluster

Below `spec`; `<pool>` is `prefill`, `decode` or `mixed`. Units stand in the names. Written from the CRD
(`pytest tests/docs --update-golden`); `kubectl explain inferencecluster.spec --recursive` shows the same, with the elements
of lists. What to do with them: [usage.md](usage.md).

"""


def test_every_field_of_the_custom_resource_is_in_the_handbook(
    matches_golden: Callable[[str, Path], None],
) -> None:
    [version] = cluster_crd()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    matches_golden(FIELDS_HEAD + field_table(spec), DOCS / "fields.md")


@pytest.mark.parametrize(
    ("process", "families"),
    [
        pytest.param("operator", operator_families, id="operator"),
        pytest.param("router", router_families, id="router"),
    ],
)
def test_every_metric_is_in_the_handbook(
    process: str, families: Callable[[], list[Metric]], matches_golden: Callable[[str, Path], None]
) -> None:
    page = DOCS / "metrics.md"
    # When a counter was made is of no use to a person.
    own = [family for family in families() if not family.name.endswith("_created")]
    _replace(page, f"metrics of the {process}", f"end of the {process}", metric_table(own), matches_golden)


@pytest.mark.parametrize(("process", "variables"), PROCESSES)
def test_every_environment_variable_is_in_the_handbook(
    process: str, variables: Sequence[Variable], matches_golden: Callable[[str, Path], None]
) -> None:
    page = DOCS / "operations.md"
    table = variable_table(variables)
    _replace(page, f"variables of the {process}", f"end of the {process}", table, matches_golden)


def _replace(
    page: Path, first: str, last: str, table: str, matches_golden: Callable[[str, Path], None]
) -> None:
    """Compare what stands between two marks of a page, or write it there."""
    start, end = f"<!-- {first} -->\n", f"<!-- {last} -->\n"
    before, _, rest = page.read_text(encoding="utf-8").partition(start)
    _, found, after = rest.partition(end)
    assert found, f"{page.name} has no place between the marks {start.strip()} and {end.strip()}"
    matches_golden(f"{before}{start}\n{table}\n{end}{after}", page)


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        pytest.param(settings, settings.VARIABLES, id="operator"),
        pytest.param(configuration, configuration.VARIABLES, id="router"),
    ],
)
def test_every_variable_that_is_read_is_declared_once(source: object, variables: Sequence[Variable]) -> None:
    declared = [value for value in vars(source).values() if isinstance(value, Variable)]
    assert sorted(variable.name for variable in variables) == sorted(variable.name for variable in declared)
    assert len({variable.name for variable in variables}) == len(variables)


@pytest.mark.parametrize(("process", "variables"), PROCESSES)
def test_help_tells_every_variable_with_its_default(
    process: str, variables: Sequence[Variable], capsys: pytest.CaptureFixture[str]
) -> None:
    main = {"operator": operator.main, "router": router.main}[process]
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    words = re.sub(r"\s+", " ", told)
    for variable in variables:
        default = f" (default: {variable.default_text})" if variable.default_text else ""
        assert f"{variable.name}{default} {variable.meaning}" in words


def test_the_chart_sets_no_variable_that_nobody_reads() -> None:
    chart = REPOSITORY / "helm" / "inferencecluster-operator"
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(chart.rglob("*.yaml")))
    known = {variable.name for variable in settings.VARIABLES}
    assert set(re.findall(r"\bIC_[A-Z_]+\b", text)) <= known


def test_the_differences_between_releases_are_those_of_the_code() -> None:
    page = (DOCS / "trtllm.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (`?[^|]+?`?)(?: in a request)? \| (.*) \|$", page, re.MULTILINE))
    for line, _ in SUPPORTED:
        assert rows[line].startswith("yes")
    served = SERVE_OPTIONS["--served_model_name"].since
    assert served is not None
    assert f"from rc{served.candidate} on" in rows["`--served_model_name`"]
    assert f"from rc{SINCE_SCHEDULE_STYLE.candidate} on" in rows["`schedule_style`"]
    assert SINCE_REQUEST_ID.candidate == 0, "the page says: always in 1.3.0rcN, never in 1.2.x"
