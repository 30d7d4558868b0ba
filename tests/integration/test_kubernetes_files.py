"""What is shipped for Kubernetes is valid there, and says the same as the configuration, the unit file and the CLI."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner

from tests.api_world import api_world, client_of
from tests.manifests import (
    DEPLOY,
    Object,
    commented_objects,
    containers,
    host_paths,
    mounts,
    objects,
    only,
    pod_spec,
)
from tierd.cli.program import program
from tierd.config import Config, Mounts, load

SCHEMA = json.loads((Path(__file__).parent / "kubernetes.schema.json").read_text())
UNIT = (Path(__file__).parents[2] / "systemd/tierd.service").read_text()
MANIFESTS = ("tierd.yaml", "job.yaml")

DAEMON = only(objects("tierd.yaml"), "DaemonSet")
SPEC = pod_spec(DAEMON)
(TIERD,) = SPEC["containers"]
FILES: dict[str, str] = only(objects("tierd.yaml"), "ConfigMap")["data"]
JOB = pod_spec(only(objects("job.yaml"), "Job"))


def refusals(found: Object) -> list[str]:
    """What is wrong with an object, as its own kind sees it."""
    kind = f"{found['apiVersion']} {found['kind']}".replace("/", ".")
    schema = {"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(found)]


def unit_value(key: str) -> str:
    (found,) = re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
    return str(found)


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load(path, mounts=Mounts.IGNORED)


# --- The cluster takes them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_knows_every_key(name: str) -> None:
    assert {each["kind"]: refusals(each) for each in objects(name) if refusals(each)} == {}


def test_what_is_commented_out_is_sound_too() -> None:
    monitor, policy = commented_objects("tierd.yaml")
    assert refusals(policy) == []
    for each in (monitor, policy):
        assert each["metadata"]["namespace"] == DAEMON["metadata"]["namespace"]
    assert monitor["spec"]["selector"]["matchLabels"] == DAEMON["spec"]["template"]["metadata"]["labels"]


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (("spec", "template", "spec", "hostPid"), True),
        (("spec", "template", "spec", "terminationGracePeriodSeconds"), "20s"),
        (("spec", "template", "spec", "containers", 0, "image"), 3),
        (("spec", "template", "spec", "containers", 0, "securityContext", "capabilities", "added"), ["LEASE"]),
        (("spec", "template", "spec", "containers", 0, "volumeMounts", 0, "mountpath"), "/etc"),
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "exec", "command"), "tierd"),
        (("spec", "updateStrategy", "rollingupdate"), {}),
        (("metadata", "label"), {}),
    ],
)
def test_a_misspelt_key_or_a_wrong_type_is_refused(where: tuple[Any, ...], wrong: object) -> None:
    broken = copy.deepcopy(DAEMON)
    place: Any = broken
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = wrong
    assert refusals(broken) != []


def test_the_names_that_objects_call_one_another_by_exist() -> None:
    found = objects("tierd.yaml")
    namespace = only(found, "Namespace")["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in found if each["kind"] != "Namespace"} == {namespace}
    assert SPEC["serviceAccountName"] == only(found, "ServiceAccount")["metadata"]["name"]
    (config,) = (volume["configMap"]["name"] for volume in SPEC["volumes"] if "configMap" in volume)
    assert config == only(found, "ConfigMap")["metadata"]["name"]
    assert DAEMON["spec"]["selector"]["matchLabels"] == DAEMON["spec"]["template"]["metadata"]["labels"]


# --- The daemon is the one of the unit file ---------------------------------------------------------------------------


def test_the_daemon_has_the_capabilities_of_the_unit_and_no_others() -> None:
    granted = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT, re.MULTILINE)).split()
    context = TIERD["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert sorted(context["capabilities"]["add"]) == sorted(name.removeprefix("CAP_") for name in granted)
    assert (context["privileged"], context["readOnlyRootFilesystem"], context["runAsUser"]) == (False, True, 0)
    assert (unit_value("NoNewPrivileges"), context["allowPrivilegeEscalation"]) == ("yes", False)


def test_nothing_else_of_the_node_is_shared_than_its_processes() -> None:
    assert {key: SPEC[key] for key in SPEC if key.startswith("host")} == {"hostPID": True}
    assert SPEC["automountServiceAccountToken"] is False
    assert "ports" not in TIERD


def test_times_are_those_of_the_unit() -> None:
    assert SPEC["terminationGracePeriodSeconds"] == int(unit_value("TimeoutStopSec"))
    for probe, key in (("startupProbe", "TimeoutStartSec"), ("livenessProbe", "WatchdogSec")):
        allowed = TIERD[probe]["periodSeconds"] * TIERD[probe]["failureThreshold"]
        assert allowed == int(unit_value(key)), probe


def test_two_daemons_never_run_on_a_node() -> None:
    update = DAEMON["spec"]["updateStrategy"]
    assert (update["type"], update["rollingUpdate"]["maxSurge"]) == ("RollingUpdate", 0)


def test_probes_ask_what_the_api_has(tmp_path: Path) -> None:
    asked = {probe: TIERD[probe]["exec"]["command"][-1] for probe in TIERD if probe.endswith("Probe")}
    assert asked == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    with api_world(tmp_path) as world, client_of(world) as client:
        assert set(asked.values()) <= set(client.get("/openapi.json").json()["paths"])
    (script,) = {TIERD[probe]["exec"]["command"][2] for probe in asked}
    at = {m["mountPath"] for m, v in mounts(SPEC, TIERD) if "configMap" in v}
    assert Path(script).name in FILES
    assert {str(Path(script).parent)} == at
    assert str(loaded(tmp_path, FILES["config.toml"]).api.socket) in FILES["probe.py"]


# --- The configuration ------------------------------------------------------------------------------------------------


def uncommented(text: str) -> str:
    """The configuration with all that it offers; whoever applies that puts the digest of a token there."""
    text = text.replace("<64 hexadecimal digits>", "0123456789abcdef" * 4)
    return re.sub(r"^#(?=[^ ])", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("change", [str, uncommented], ids=["as it is", "uncommented"])
def test_tierd_accepts_the_configuration(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "config.toml"
    path.write_text(change(FILES["config.toml"]))
    result = CliRunner().invoke(program, ["check-config", "--text-only", "--config", str(path)])
    assert result.exit_code == 0, result.output


def test_what_the_configuration_names_is_mounted_where_the_node_has_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILES["config.toml"])
    there = host_paths(SPEC, TIERD)
    assert there == {path: path for path in there}, "another path here than on the node"
    assert config.api.socket is not None
    wanted = {str(tier.root) for tier in config.tiers} | {str(config.database.parent), str(config.api.socket.parent)}
    assert wanted == set(there)
    assert not any(mount.get("readOnly") for mount, volume in mounts(SPEC, TIERD) if "hostPath" in volume)
    types = {
        volume["hostPath"]["path"]: volume["hostPath"]["type"] for volume in SPEC["volumes"] if "hostPath" in volume
    }
    # What were made in place of a missing disk would fill the node's own.
    assert {types[str(tier.root)] for tier in config.tiers} == {"Directory"}


def test_keys_of_a_bucket_come_from_the_secret(tmp_path: Path) -> None:
    config = loaded(tmp_path, uncommented(FILES["config.toml"]))
    (bucket,) = (tier.s3 for tier in config.tiers if tier.s3 is not None)
    (mount,) = (m for m, v in mounts(SPEC, TIERD) if "secret" in v)
    assert bucket.credentials is not None
    assert str(bucket.credentials.parent) == mount["mountPath"]
    text = (DEPLOY / "tierd.yaml").read_text()
    assert f"--from-file={bucket.credentials.name}=" in text
    (secret,) = (v["secret"] for _, v in mounts(SPEC, TIERD) if "secret" in v)
    assert (secret["optional"], secret["defaultMode"]) == (True, 0o400)
    assert f"secret generic {secret['secretName']} " in text


# --- The job ----------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_job_are_understood() -> None:
    runs = [each["command"] for each in containers(JOB) if each["command"][0] == "tierd"]
    assert len(runs) == 2
    for _, verb, *words in runs:
        command = program.commands[verb]
        assert isinstance(command, click.Command)
        command.make_context(verb, list(words))


def test_the_job_warms_holds_and_reads_one_snapshot_of_the_configuration(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILES["config.toml"])
    warm, hold, train = containers(JOB)
    ref = warm["command"][2]
    assert hold["command"][2] == ref
    name, _, snapshot = ref.partition("/")
    (path,) = (dataset.path for dataset in config.datasets if dataset.name == name)
    assert str(path / snapshot) in train["command"]
    assert "--wait" in warm["command"]
    assert "restartPolicy" not in warm, "the job would not wait for it"
    assert hold["restartPolicy"] == "Always", "the job would wait for it for ever"


def test_the_job_sees_all_tiers_under_the_paths_of_the_node(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILES["config.toml"])
    warm, hold, train = containers(JOB)
    roots = {str(tier.root): str(tier.root) for tier in config.tiers}
    assert host_paths(JOB, train) == roots
    assert config.api.socket is not None
    # The directory: a restarted daemon makes another socket.
    socket = {str(config.api.socket.parent): str(config.api.socket.parent)}
    assert host_paths(JOB, warm) == host_paths(JOB, hold) == socket
    for each in containers(JOB):
        assert all(mount["readOnly"] for mount, _ in mounts(JOB, each))


def test_the_job_reaches_the_socket_by_its_group_and_as_nobody_special(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILES["config.toml"])
    assert config.api.socket_mode == 0o660
    context = JOB["securityContext"]
    assert context["supplementalGroups"] == [TIERD["securityContext"]["runAsGroup"]]
    assert context["runAsNonRoot"] is True
    assert 0 not in (context["runAsUser"], context["runAsGroup"])
    for each in containers(JOB):
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_job_runs_where_the_daemon_runs() -> None:
    assert JOB["nodeSelector"] == SPEC["nodeSelector"]
    assert JOB["tolerations"] == SPEC["tolerations"]


def test_all_use_the_image_that_the_containerfile_makes() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    version = re.search(r'^version = "(.*)"$', (DEPLOY.parents[1] / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    images = {each["image"] for each in (TIERD, *containers(JOB)) if each["command"][0] == "tierd"}
    assert images == {f"tierd:{version[1]}"}
    assert f"-t tierd:{version[1]} ." in text
    # What is copied into it is all that the package is built from.
    (build,) = re.findall(r"^COPY (pyproject.*) \./$", text, re.MULTILINE)
    assert "COPY tierd tierd" in text
    assert all((DEPLOY.parents[1] / name).is_file() for name in build.split())
