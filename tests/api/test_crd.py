"""The CRDs that are checked in: equal to the models, structural, small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from inferencecluster.api import crd

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = [
    pytest.param(REPOSITORY / "crds", id="crds"),
    pytest.param(REPOSITORY / "helm" / "inferencecluster-operator" / "files" / "crds", id="chart"),
]
DEFINITIONS = [
    pytest.param(crd.cluster_crd(), id="InferenceCluster"),
    pytest.param(crd.pool_crd(), id="EnginePool"),
]

Schema = dict[str, Any]


def schema_of(definition: Schema) -> Schema:
    found: Schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every sub-schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from walk(schema[keyword], f"{path}[]")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_files_in_the_repository_equal_the_models(folder: Path) -> None:
    assert crd.outdated(folder) == [], "run `make generate`"


def test_generating_twice_gives_the_same_bytes() -> None:
    assert crd.documents() == crd.documents()


@pytest.mark.parametrize("name", sorted(crd.documents()))
def test_a_crd_fits_client_side_apply(name: str) -> None:
    # kubectl apply stores the object in an annotation of at most 262,144 bytes.
    assert len(crd.documents()[name].encode()) < 200_000


def test_no_yaml_anchor_hides_a_schema() -> None:
    text = "".join(crd.documents().values())
    assert not re.search(r"(?m)(: |- )[&*]id\d", text)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_schema_is_structural(definition: Schema) -> None:
    for path, schema in walk(schema_of(definition)):
        assert ("type" in schema) != bool(schema.get("x-kubernetes-int-or-string")), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        assert not {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "title", "const"} & set(schema), path
        assert schema.get("type") != "number", f"{path} is a float"


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_everything_a_user_writes_is_described_and_bounded(definition: Schema) -> None:
    for path, schema in walk(schema_of(definition)):
        if path.count(".") < 2 or path.endswith("[]"):
            continue
        assert schema["description"].endswith("."), path
        match schema.get("type"):
            case "integer":
                assert {"minimum", "maximum", "format"} <= set(schema), path
            case "array":
                assert {"maxItems", "x-kubernetes-list-type"} <= set(schema), path
            case "string":
                assert {"maxLength", "enum", "format"} & set(schema), path


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_list_map_requires_its_keys(definition: Schema) -> None:
    for path, schema in walk(schema_of(definition)):
        for key in schema.get("x-kubernetes-list-map-keys", []):
            assert key in schema["items"]["required"], path


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_every_rule_says_what_to_do(definition: Schema) -> None:
    for path, schema in walk(schema_of(definition)):
        for rule in schema.get("x-kubernetes-validations", []):
            _, separator, advice = rule["message"].rpartition(": ")
            assert separator, f"{path}: {rule['message']}"
            assert advice, path


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_seven_columns_fit_a_terminal(definition: Schema) -> None:
    columns = definition["spec"]["versions"][0]["additionalPrinterColumns"]
    assert len([column for column in columns if not column.get("priority")]) <= 7


def test_the_scale_subresource_points_at_integers_and_a_string() -> None:
    definition = crd.pool_crd()
    scale = definition["spec"]["versions"][0]["subresources"]["scale"]
    kinds = {}
    for keyword, path in scale.items():
        schema = schema_of(definition)
        for part in path.strip(".").split("."):
            schema = schema["properties"][part]
        kinds[keyword] = (schema["type"], schema.get("format"))
    assert kinds == {
        "specReplicasPath": ("integer", "int32"),
        "statusReplicasPath": ("integer", "int32"),
        "labelSelectorPath": ("string", None),
    }


def test_check_names_what_differs_and_writing_repairs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crd.main([str(tmp_path)])
    assert crd.main(["--check", str(tmp_path)]) == 0
    changed = tmp_path / "inferenceclusters.yaml"
    changed.write_text(changed.read_text() + "# edited by hand\n")
    (tmp_path / "enginepools.yaml").unlink()
    (tmp_path / "stale.yaml").write_text("{}")
    assert crd.main(["--check", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    for name in ("inferenceclusters.yaml", "enginepools.yaml", "stale.yaml"):
        assert name in shown
    crd.main([str(tmp_path)])
    assert crd.main(["--check", str(tmp_path)]) == 0


@pytest.mark.parametrize("name", sorted(crd.documents()))
def test_a_document_is_one_crd_of_our_group(name: str) -> None:
    [document] = yaml.safe_load_all(crd.documents()[name])
    assert document["kind"] == "CustomResourceDefinition"
    assert document["spec"]["group"] == "gpupools.dev"
