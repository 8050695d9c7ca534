"""Kubernetes accepts the files of the server, their flags exist, and the dashboard asks for metrics that there are."""

import json
import re
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("fastapi")

from jaxdino.core.errors import UserError
from jaxdino.serve import parser
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.settings import ServeSettings, read_settings
from launch.ray_serve import check_address

LAUNCH = Path(__file__).parent.parent.parent / "launch"
DOCUMENTS = {one["kind"]: one for one in yaml.safe_load_all((LAUNCH / "kubernetes-serving" / "serve.yaml").read_text())}
KSERVE = yaml.safe_load((LAUNCH / "kubernetes-serving" / "kserve.yaml").read_text())


@pytest.mark.parametrize("kind", ["Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"])
def test_kubernetes_accepts_each_file_and_refuses_a_mistake(kind):
    kubernetes_validate.validate(DOCUMENTS[kind], "1.31", strict=True)
    wrong = DOCUMENTS[kind] | {"spec": DOCUMENTS[kind]["spec"] | {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_the_pod_of_kserve_is_one_that_kubernetes_accepts():
    """KServe's own fields of a predictor are those that are left out here."""
    own = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout")
    pod = {name: value for name, value in KSERVE["spec"]["predictor"].items() if name not in own}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(made, "1.31", strict=True)


def containers():
    yield DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
    yield KSERVE["spec"]["predictor"]


def test_the_names_fit_and_the_flags_are_those_of_the_command():
    labels = DOCUMENTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = DOCUMENTS[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    for pod in containers():
        (container,) = pod["containers"]
        assert container["command"] == ["jaxdino", "serve"]
        args = parser().parse_args(container["args"])
        settings = read_settings(args, None)
        assert settings.port == container["ports"][0]["containerPort"]
        grace = pod.get("terminationGracePeriodSeconds", 300)
        assert settings.drain_delay + settings.drain_timeout < grace
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert pod["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_container_starts_the_command_with_flags_that_exist(name):
    text = (LAUNCH / "docker" / f"{name}.Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    assert json.loads(entry) == ["jaxdino", "serve"]
    flags = json.loads(re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)[-1])
    assert read_settings(parser().parse_args(flags), None).host == "0.0.0.0"
    assert re.search(r"^USER 10001$", text, re.MULTILINE)


def test_the_images_have_one_version_of_everything_that_they_install():
    lines = (LAUNCH / "docker" / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["serve"], *extras["cuda13"]):
        needed = Requirement(text)
        assert needed.specifier.contains(pinned[canonicalize_name(needed.name)]), text
    assert "!launch/docker/constraints.txt" in (LAUNCH.parent / ".dockerignore").read_text().splitlines()
    for name in ("cpu", "cuda"):
        text = (LAUNCH / "docker" / f"{name}.Dockerfile").read_text()
        assert "ARG CONSTRAINTS=launch/docker/constraints.txt" in text and '--constraint "$CONSTRAINTS"' in text


def test_a_cluster_that_listens_elsewhere_is_refused():
    settings = ServeSettings(port=8001)
    check_address(settings, "127.0.0.1", 8001)
    with pytest.raises(UserError, match=r"give --host=0.0.0.0 --port=8000"):
        check_address(settings, "0.0.0.0", 8000)


def test_the_dashboard_asks_for_metrics_that_there_are():
    text, known = (LAUNCH / "grafana.json").read_text(), set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        known |= {family.name + suffix for suffix in suffixes}
    asked = set(re.findall(r"jaxdino_\w+", text))
    assert asked <= known, asked - known
    panels = json.loads(text)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
