"""The Kubernetes overlays: rendered, valid against the schemas of Kubernetes, and what gates need of them."""

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.settings import Settings
from gateway.settings.console import ConsoleSection
from gateway.settings.servers import AdminSection, ListenSection
from tests.deploy.accepted import SECRETS, command_problem, settings_in

FOLDER = Path(__file__).parents[2] / "config/deploy/kubernetes"
KUBECTL = Path(sysconfig.get_path("scripts")) / "kubectl"
OVERLAYS = ("sidecar", "standalone")
EXPORTER_FLUSHES_S = 30
"""What the exporter may need after the last request of a drain."""

Manifest = dict[str, Any]


def rendered(overlay: str) -> list[Manifest]:
    done = subprocess.run(
        [KUBECTL, "kustomize", FOLDER / "overlays" / overlay],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return rendered(request.param)


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] in kinds]


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "StatefulSet", "Deployment")


def containers(manifests: list[Manifest]) -> list[Manifest]:
    pods = [each["spec"]["template"]["spec"] for each in workloads(manifests)]
    return [one for pod in pods for one in pod.get("initContainers", []) + pod["containers"]]


def ours(manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in containers(manifests) if "/creditgate:" in each["image"]]


def environment(container: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", [])}


def settings_of(manifests: list[Manifest], container: Manifest, folder: Path) -> Settings:
    [config] = of_kind(manifests, "ConfigMap")
    return settings_in(folder, config["data"]["gateway.yaml"], environment(container))


def port_number(container: Manifest, port: str | int) -> int:
    named = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
    return int(named.get(port, port))


def test_every_manifest_is_valid(manifests: list[Manifest]) -> None:
    assert len(manifests) > 8
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    [gate] = of_kind(rendered("sidecar"), "StatefulSet")
    gate["spec"]["template"]["spec"]["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(gate, "1.37", strict=True)


def test_every_process_has_a_command_that_exists(manifests: list[Manifest]) -> None:
    assert {
        each["name"]: command_problem(each["args"]) for each in ours(manifests)
    } == dict.fromkeys((each["name"] for each in ours(manifests)), None)


def test_standalone_runs_gate_console_and_exporter_apart(tmp_path: Path) -> None:
    manifests = rendered("standalone")
    by_name = {each["name"]: each for each in ours(manifests)}
    assert {name: each["args"] for name, each in by_name.items()} == {
        "gate": ["serve"],
        "console": ["console", "run"],
        "exporter": ["export", "run"],
    }
    enabled = {
        name: settings_of(manifests, each, tmp_path).console.enabled
        for name, each in by_name.items()
    }
    assert enabled == {"gate": False, "console": True, "exporter": False}


def test_the_sidecar_forwards_to_the_server_in_its_pod_which_outlives_it(tmp_path: Path) -> None:
    manifests = rendered("sidecar")
    [gate] = workloads(manifests)
    pod = gate["spec"]["template"]["spec"]
    [server] = pod["initContainers"]
    [sidecar] = pod["containers"]
    assert server["restartPolicy"] == "Always"
    port = server["startupProbe"]["tcpSocket"]["port"]
    settings = settings_of(manifests, sidecar, tmp_path)
    assert settings.upstreams["provider"].base_url == f"http://127.0.0.1:{port}"
    assert settings.console.enabled


def test_every_configuration_is_accepted_and_has_the_ports_of_its_pod(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    for container in ours(manifests):
        settings = settings_of(manifests, container, tmp_path)
        listens: dict[str, ListenSection | AdminSection | ConsoleSection] = {
            "gate": settings.listen,
            "admin": settings.admin,
            "console": settings.console,
        }
        for port in container.get("ports", []):
            assert port["containerPort"] == listens[port["name"]].port
            assert listens[port["name"]].host == "0.0.0.0"
        mounts = {each["mountPath"] for each in container["volumeMounts"]}
        assert mounts == {"/etc/creditgate", str(settings.data_dir), "/tmp"}


def test_a_pod_has_longer_to_stop_than_the_longest_response(
    manifests: list[Manifest], tmp_path: Path
) -> None:
    for workload in workloads(manifests):
        pod = workload["spec"]["template"]["spec"]
        [container] = pod["containers"]
        settings = settings_of(manifests, container, tmp_path)
        hook = container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
        waits_s = int(hook["exec"]["command"][1])
        drain_s = settings.listen.drain_grace_ms / 1000
        assert pod["terminationGracePeriodSeconds"] >= waits_s + drain_s + EXPORTER_FLUSHES_S
        longest_ms = max(each.timeouts.total_ms for each in settings.upstreams.values())
        assert settings.listen.drain_grace_ms >= longest_ms


def test_probes_ask_the_admin_port(manifests: list[Manifest]) -> None:
    asked = [each for each in ours(manifests) if each["name"] != "exporter"]
    assert asked
    for container in asked:
        for probe, path in (
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ):
            get = container[probe]["httpGet"]
            assert (get["path"], port_number(container, get["port"])) == (path, 8081)


def test_every_container_is_restricted(manifests: list[Manifest]) -> None:
    for workload in workloads(manifests):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]


def test_secrets_are_files_of_one_secret_and_nowhere_else(manifests: list[Manifest]) -> None:
    assert not of_kind(manifests, "Secret")
    [config] = of_kind(manifests, "ConfigMap")
    named = set(re.findall(r"\$\{file:secrets/([\w-]+)\}", config["data"]["gateway.yaml"]))
    assert named == set(SECRETS)
    for workload in workloads(manifests):
        volumes = {each["name"]: each for each in workload["spec"]["template"]["spec"]["volumes"]}
        sources = volumes["config"]["projected"]["sources"]
        assert {"configMap": {"name": config["metadata"]["name"]}} in sources
        [secret] = [each["secret"] for each in sources if "secret" in each]
        assert secret["name"] == "creditgate"
        assert {(each["key"], each["path"]) for each in secret["items"]} == {
            (name, f"secrets/{name}") for name in named
        }


def test_services_policies_and_budgets_select_pods_that_exist(manifests: list[Manifest]) -> None:
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in workloads(manifests)]
    selectors = [each["spec"]["selector"] for each in of_kind(manifests, "Service")]
    selectors += [
        each["spec"]["selector"]["matchLabels"]
        for each in of_kind(manifests, "PodDisruptionBudget")
    ]
    selectors += [
        each["spec"]["podSelector"].get("matchLabels", {})
        for each in of_kind(manifests, "NetworkPolicy")
    ]
    for selector in selectors:
        assert any(selector.items() <= labels.items() for labels in pods), selector
    [dns] = [
        to["podSelector"]["matchLabels"]
        for policy in of_kind(manifests, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for to in rule.get("to", [])
    ]
    assert dns == {"k8s-app": "kube-dns"}, "labels of ours were added to the selector of others"


def test_services_name_ports_of_their_pods(manifests: list[Manifest]) -> None:
    for service in of_kind(manifests, "Service"):
        for workload in workloads(manifests):
            pod = workload["spec"]["template"]
            if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items():
                [container] = pod["spec"]["containers"]
                names = {each["name"] for each in container["ports"]}
                assert {each["targetPort"] for each in service["spec"]["ports"]} <= names


def test_every_volume_that_is_mounted_exists(manifests: list[Manifest]) -> None:
    for workload in workloads(manifests):
        pod = workload["spec"]["template"]["spec"]
        claims = workload["spec"].get("volumeClaimTemplates", [])
        exist = {each["name"] for each in pod["volumes"]}
        exist |= {each["metadata"]["name"] for each in claims}
        for container in pod.get("initContainers", []) + pod["containers"]:
            assert {each["name"] for each in container["volumeMounts"]} <= exist
