"""Lints a chart and renders it, by Helm's own library: a JSON object of paths and texts.

Arguments: the chart's directory, the name and the namespace of the release, values as JSON.
"""

import json
import sys

from helm_python import Chart, lint

path, name, namespace, values = sys.argv[1:]
values = json.loads(values)
report = lint(path, values, strict=True, namespace=namespace)
findings = [it for it in report["messages"] if it["severity"] >= 2]
if findings or report["errors"]:
    lines = [f"{it['path']}: {it['error']}" for it in findings] or report["errors"]
    sys.exit("\n".join(lines))
with Chart.load(path) as chart:
    chart.validate_schema(values)
    rendered = chart.render(values, name=name, namespace=namespace)
    files = {path.split("/", 1)[1]: text for path, text in rendered.items()}
    files.update({it["name"]: it["data"] for it in chart.crds})
json.dump(files, sys.stdout)
