"""What schemas cannot say of the manifests: that probes ask what exists, that pods are restricted, that names and times fit together. And of all files that
make settings: that those exist, for what is in the environment and is none is not refused."""

import pathlib
import re
import sys
import tomllib

sys.path[:0] = [str(path) for path in pathlib.Path(sys.argv[1]).glob("lib/python3*/site-packages")]
from ruamel.yaml import YAML  # noqa: E402

folder = pathlib.Path(__file__).parent
things = [thing for file in sorted(folder.glob("*.yaml")) for thing in YAML(typ="safe").load_all(file.read_text())]
by_kind = {}
for thing in things:
    by_kind.setdefault(thing["kind"], []).append(thing)

routes = (folder.parent.parent / "tests/snapshots/openapi.json").read_text()
configuration = by_kind["ConfigMap"][0]["data"]["whatsnext.toml"]
settings = tomllib.loads(configuration)
deployment, job = by_kind["Deployment"][0], by_kind["Job"][0]

for owner in (deployment, job):
    pod = owner["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]} and "privileged" not in security
        assert container["resources"]["limits"]["memory"]
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}

readme = (folder.parent / "README.md").read_text()
order = [readme.index(f"{step}\n") for step in ("-f deploy/kubernetes/migrate.yaml", "job/whatsnext-migrate", "kubectl apply -k deploy/kubernetes")]
assert order == sorted(order), "the schema is there before the servers that need it"

pod = deployment["spec"]["template"]["spec"]
server = pod["containers"][0]
for probe, path in (("livenessProbe", "/livez"), ("startupProbe", "/livez"), ("readinessProbe", "/readyz")):
    assert server[probe]["httpGet"]["path"] == path and f'"{path}"' in routes, probe
    assert server[probe]["httpGet"]["port"] == server["ports"][0]["name"]
drain, shutdown = int(settings["drain_delay_seconds"]), 30
assert pod["terminationGracePeriodSeconds"] > drain + shutdown, "a server is not killed before it has stopped"
assert server["readinessProbe"]["periodSeconds"] * server["readinessProbe"]["failureThreshold"] < drain, "it is seen to stop before it does"

labels = deployment["spec"]["template"]["metadata"]["labels"]
for selector in (deployment["spec"]["selector"]["matchLabels"], by_kind["PodDisruptionBudget"][0]["spec"]["selector"]["matchLabels"]):
    assert selector == labels
assert by_kind["Service"][0]["spec"]["selector"] == labels
assert by_kind["HorizontalPodAutoscaler"][0]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
covered = by_kind["NetworkPolicy"][0]["spec"]["podSelector"]["matchExpressions"][0]["values"]
for owner in (deployment, job):
    assert owner["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] in covered
namespace = by_kind["Namespace"][0]
assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
assert all(thing["metadata"]["namespace"] == namespace["metadata"]["name"] for thing in things if thing["kind"] not in ("Namespace", "Kustomization"))

deploy = folder.parent
known = tomllib.loads((deploy / "config/default.toml").read_text()).keys()
made = {"config.yaml": list(settings)}
for thing in (deployment, job):
    containers = thing["spec"]["template"]["spec"]["containers"]
    made[thing["kind"]] = [variable["name"] for container in containers for variable in container.get("env", [])]
services = YAML(typ="safe").load((deploy / "docker/compose.yaml").read_text())["services"]
made["compose.yaml"] = [name for service in services.values() if service["image"] == "whatsnext" for name in service["environment"]]
made["Dockerfile"] = re.findall(r"^ENV +(\w+)", (deploy / "docker/Dockerfile").read_text(), re.MULTILINE)
unit = re.findall(r"^Environment=(.*)", (deploy / "systemd/whatsnext.service").read_text(), re.MULTILINE)
made["whatsnext.service"] = [variable.split("=")[0] for line in unit for variable in line.split()]
made["whatsnext.toml"] = list(tomllib.loads((deploy / "debian/whatsnext.toml").read_text()))
for file in ("config.yaml", "compose.yaml", "whatsnext.service", "whatsnext.toml"):
    assert made[file], f"{file} makes settings"
for file, names in made.items():
    unknown = [name for name in names if name.lower() not in known]
    assert not unknown, f"{file} makes settings that do not exist: {', '.join(unknown)}"
