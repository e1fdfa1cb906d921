"""What deploy/, docker-compose.yml and docs/runbook.md say, against the code and against each other.

Needs promtool's path in PROMTOOL and the binary's in FAREBOX_BIN; `make test-deploy` sets both.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RUNBOOK = ROOT / "docs/runbook.md"

# The oldest version whose APIs the manifests use, and the newest that the validator knows.
KUBERNETES_VERSIONS = ("1.27", "1.37")

# What Prometheus adds to every series, and to those of histograms.
SCRAPED_LABELS = {"job", "instance", "le"}

# What Docker and Kubernetes set in every container.
SET_BY_THE_SYSTEM = {"HOSTNAME"}

# How long a gateway may need after drain_delay and shutdown_timeout: calls that were cut off, and
# the ledger's last batches (src/gateway/stop.rs, src/ledger/pipeline.rs).
LAST_BATCHES_S = 22


def read_yaml(path):
    return list(yaml.safe_load_all(path.read_text()))


def declared_metrics():
    """The metrics of src/metrics.rs: name to labels."""
    source = (ROOT / "src/metrics.rs").read_text().split("#[cfg(test)]")[0]
    metrics = {name: set() for name in re.findall(r'"(farebox_\w+)"', source)}
    labelled = r'"(farebox_\w+)",\s*"(?:[^"\\]|\\.)*",\s*&\[([^\]]*)\]'
    for name, labels in re.findall(labelled, source):
        metrics[name] = set(re.findall(r'"(\w+)"', labels))
    return metrics


def rules(name):
    (document,) = read_yaml(PROMETHEUS / name)
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads((DEPLOY / "grafana/farebox.json").read_text())


def dashboard_queries():
    queries = [
        target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])
    ]
    return queries + [note["target"]["expr"] for note in dashboard()["annotations"]["list"]]


def headings(path):
    """The anchors of a Markdown file's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def seconds(span):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", span).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def variables_of(config):
    """Those that whoever deploys it has to set."""
    return set(re.findall(r"\$\{(\w+)", config.read_text())) - SET_BY_THE_SYSTEM


def server_of(config):
    return tomllib.loads(config.read_text())["server"]


def stop_takes_s(config):
    server = server_of(config)
    return seconds(server["drain_delay"]) + seconds(server["shutdown_timeout"]) + LAST_BATCHES_S


# What a connection takes besides its head, twice. tests/product/memory.rs measures it.
CONNECTION_BYTES = 32 * 1024


def port(address):
    return int(address.rsplit(":", 1)[1])


class Monitoring(unittest.TestCase):
    def expressions(self):
        found = [rule["expr"] for file in ("rules.yml", "alerts.yml") for rule in rules(file)]
        return found + dashboard_queries()

    def test_every_metric_named_anywhere_is_one_that_farebox_has(self):
        declared = declared_metrics()
        pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        texts = {path: path.read_text() for path in pages}
        texts |= {path: path.read_text() for path in DEPLOY.rglob("*") if path.is_file()}
        for path, text in texts.items():
            for name in set(re.findall(r"(?<![\w-])farebox_[a-z_]+\b(?!:)", text)):
                series = re.sub(r"_(bucket|sum|count)$", "", name)
                self.assertTrue({name, series} & declared.keys(), f"{path}: {name}")

    def test_selectors_ask_for_labels_that_the_metric_has(self):
        declared = declared_metrics()
        for expression in self.expressions():
            for name, selector in re.findall(r"\b(farebox_\w+)\{([^}]*)\}", expression):
                labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*[\"']", selector))
                series = re.sub(r"_bucket$", "", name)
                self.assertLessEqual(labels, declared[series] | SCRAPED_LABELS, expression)

    def test_every_recorded_ratio_in_use_is_recorded(self):
        recorded = {rule["record"] for rule in rules("rules.yml")}
        for expression in self.expressions():
            self.assertLessEqual(set(re.findall(r"farebox:\w+:\w+", expression)), recorded)

    def test_every_alert_says_what_it_means_and_has_a_page_in_the_runbook(self):
        pages = {f"docs/runbook.md#{anchor}" for anchor in headings(RUNBOOK)}
        for alert in rules("alerts.yml"):
            with self.subTest(alert["alert"]):
                self.assertEqual(
                    alert["annotations"].keys(), {"summary", "description", "runbook"}
                )
                self.assertIn(alert["labels"]["severity"], ("page", "ticket"))
                self.assertIn(alert["annotations"]["runbook"], pages)

    def test_every_page_of_the_runbook_that_another_names_is_there(self):
        anchors = headings(RUNBOOK)
        for anchor in re.findall(r"\]\(#([^)]+)\)", RUNBOOK.read_text()):
            self.assertIn(anchor, anchors)

    def test_every_alert_is_shown_to_fire(self):
        tests = "".join(path.read_text() for path in PROMETHEUS.glob("*_test.yml"))
        for alert in rules("alerts.yml"):
            fires = rf'alertname(: |="){alert["alert"]}\b'
            self.assertRegex(tests, fires)

    def test_every_query_of_the_dashboard_is_promql(self):
        queries = [
            query.replace("$__rate_interval", "5m").replace("$minor", "100")
            for query in dashboard_queries()
        ]
        group = {
            "name": "dashboard",
            "rules": [{"record": f"q:{i}", "expr": query} for i, query in enumerate(queries)],
        }
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            yaml.safe_dump({"groups": [group]}, file)
            file.flush()
            checked = subprocess.run(
                [os.environ["PROMTOOL"], "check", "rules", file.name],
                capture_output=True,
                text=True,
            )
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_the_dashboard_asks_the_chosen_data_source_and_needs_no_plugin(self):
        board = dashboard()
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        self.assertEqual(variables["datasource"]["type"], "datasource")
        for panel in board["panels"]:
            with self.subTest(panel["title"]):
                self.assertIn(panel["type"], ("row", "stat", "table", "timeseries"))
                for asks in [panel, *panel.get("targets", [])]:
                    if panel["type"] != "row":
                        self.assertEqual(asks["datasource"]["uid"], "${datasource}")

    def test_the_dashboard_s_panels_do_not_overlap(self):
        taken = {}
        for panel in dashboard()["panels"]:
            place = panel["gridPos"]
            self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    self.assertNotIn((x, y), taken, f"{panel['title']}: {taken.get((x, y))}")
                    taken[x, y] = panel["title"]
        ids = [panel["id"] for panel in dashboard()["panels"]]
        self.assertEqual(len(ids), len(set(ids)))


class Compose(unittest.TestCase):
    FILE = ROOT / "docker-compose.yml"
    CONFIG = DEPLOY / "compose/gateway.toml"

    def setUp(self):
        (self.compose,) = read_yaml(self.FILE)
        services = self.compose["services"]
        self.gateways = {name: s for name, s in services.items() if name.startswith("gateway-")}

    def test_it_is_what_compose_reads(self):
        schema = ["--builtin-schema", "vendor.compose-spec"]
        checked = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", *schema, str(self.FILE)],
            capture_output=True,
            text=True,
        )
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_every_file_that_it_mounts_is_there(self):
        for service in self.compose["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                is_path = source.startswith(".")
                known = (ROOT / source).exists() if is_path else source in self.compose["volumes"]
                self.assertTrue(known, volume)

    def test_a_gateway_is_not_killed_before_it_has_stopped(self):
        self.assertEqual(len(self.gateways), 2)
        for gateway in self.gateways.values():
            self.assertGreater(seconds(gateway["stop_grace_period"]), stop_takes_s(self.CONFIG))

    def test_prometheus_asks_every_gateway_where_it_shows_its_metrics(self):
        (config,) = read_yaml(PROMETHEUS / "prometheus.yml")
        (job,) = config["scrape_configs"]
        health = port(server_of(self.CONFIG)["health"])
        targets = [f"{name}:{health}" for name in self.gateways]
        self.assertEqual(job["static_configs"], [{"targets": targets}])

    def test_every_variable_of_its_gateways_is_set(self):
        for gateway in self.gateways.values():
            self.assertEqual(gateway["environment"].keys(), variables_of(self.CONFIG))


class Kubernetes(unittest.TestCase):
    FOLDER = DEPLOY / "k8s"
    CONFIG = FOLDER / "gateway.toml"

    # What `kubectl apply -k` leaves out: yours to fill in, and what needs an operator's own types.
    NOT_APPLIED = {"kustomization.yaml", "secret.example.yaml", "podmonitor.yaml"}

    def manifest(self, name):
        (manifest,) = read_yaml(self.FOLDER / name)
        return manifest

    def pod(self, name="deployment.yaml"):
        return self.manifest(name)["spec"]["template"]

    def test_every_manifest_is_what_kubernetes_accepts(self):
        own_types = {"kustomization.yaml", "podmonitor.yaml"}
        for path in self.FOLDER.glob("*.yaml"):
            for version in KUBERNETES_VERSIONS:
                if path.name not in own_types:
                    with self.subTest(path.name, version=version):
                        kubernetes_validate.validate(self.manifest(path.name), version, strict=True)

    def test_the_kustomization_takes_all_that_it_should(self):
        kustomization = self.manifest("kustomization.yaml")
        manifests = {path.name for path in self.FOLDER.glob("*.yaml")}
        self.assertEqual(set(kustomization["resources"]), manifests - self.NOT_APPLIED)
        (generated,) = kustomization["configMapGenerator"]
        self.assertEqual(generated, {"name": "farebox", "files": [self.CONFIG.name]})
        for name in ("deployment.yaml", "migrate.yaml"):
            (volume,) = self.pod(name)["spec"]["volumes"]
            self.assertEqual(volume["configMap"]["name"], generated["name"])
            (container,) = self.pod(name)["spec"]["containers"]
            self.assertEqual(container["image"], kustomization["images"][0]["name"])

    def test_every_selector_finds_the_gateways_alone(self):
        gateway = self.pod()["metadata"]["labels"]
        selectors = [
            self.manifest("deployment.yaml")["spec"]["selector"]["matchLabels"],
            self.manifest("service.yaml")["spec"]["selector"],
            self.manifest("disruption.yaml")["spec"]["selector"]["matchLabels"],
            self.manifest("podmonitor.yaml")["spec"]["selector"]["matchLabels"],
            self.manifest("network.yaml")["spec"]["podSelector"]["matchLabels"],
        ]
        spread = self.pod()["spec"]["topologySpreadConstraints"]
        selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
        for selector in selectors:
            self.assertEqual(selector, gateway)
        self.assertNotEqual(self.pod("migrate.yaml")["metadata"]["labels"], gateway)

    def test_a_pod_is_not_killed_before_it_has_stopped(self):
        grace = self.pod()["spec"]["terminationGracePeriodSeconds"]
        self.assertGreater(grace, stop_takes_s(self.CONFIG))

    def test_a_pod_that_goes_serves_until_its_probe_has_failed(self):
        (container,) = self.pod()["spec"]["containers"]
        probe = container["readinessProbe"]
        noticed = probe["failureThreshold"] * (probe["periodSeconds"] + probe["timeoutSeconds"])
        self.assertLessEqual(noticed, seconds(server_of(self.CONFIG)["drain_delay"]))

    def test_ports_are_those_of_the_config_and_the_admin_listener_has_none(self):
        server = server_of(self.CONFIG)
        (container,) = self.pod()["spec"]["containers"]
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        expected = {"http": port(server["listen"]), "health": port(server["health"])}
        self.assertEqual(ports, expected)
        self.assertTrue(server["admin"].startswith("127.0.0.1:"))
        self.assertEqual(int(container["resources"]["requests"]["cpu"]), server["threads"])

    def test_the_network_policy_opens_the_pod_s_ports_and_no_other(self):
        (container,) = self.pod()["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        policy = self.manifest("network.yaml")["spec"]
        self.assertEqual(policy["policyTypes"], ["Ingress"])
        opened = {port["port"]: rule.get("from") for rule in policy["ingress"] for port in rule["ports"]}
        self.assertEqual(opened.keys(), ports)
        self.assertIsNone(opened["http"])
        self.assertTrue(opened["health"], "only the monitoring reaches the health port")

    def test_connections_that_send_endless_heads_fit_into_half_of_the_memory(self):
        server = server_of(self.CONFIG)
        connection = 2 * server["max_header_bytes"] + CONNECTION_BYTES
        (container,) = self.pod()["spec"]["containers"]
        limit = re.fullmatch(r"(\d+)Mi", container["resources"]["limits"]["memory"])
        self.assertLessEqual(server["max_connections"] * connection, int(limit[1]) * 2**20 / 2)

    def test_the_secret_has_every_variable_of_the_config(self):
        secret = self.manifest("secret.example.yaml")["stringData"]
        self.assertEqual(secret.keys(), variables_of(self.CONFIG))


class Configs(unittest.TestCase):
    URLS = {"REDIS_URL": "redis://redis:6379", "DATABASE_URL": "postgres://u:p@postgres/farebox"}

    def mistakes(self, config):
        """What `farebox check` has against it."""
        names = variables_of(config) | SET_BY_THE_SYSTEM
        env = {name: self.URLS.get(name, "a-secret-that-is-long-enough-for-all") for name in names}
        checked = subprocess.run(
            [os.environ["FAREBOX_BIN"], "check", "--config", str(config)],
            env=env,
            capture_output=True,
            text=True,
        )
        found = re.findall(rf"^{re.escape(str(config))}:\d+: (.*)$", checked.stderr, re.MULTILINE)
        self.assertEqual(checked.returncode, 2 if found else 0, checked.stdout + checked.stderr)
        return set(found)

    def test_farebox_finds_no_mistake_in_them(self):
        for config in (Compose.CONFIG, Kubernetes.CONFIG):
            self.assertEqual(self.mistakes(config), set(), config)


if __name__ == "__main__":
    unittest.main()
