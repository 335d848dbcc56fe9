//! The Helm chart, which is the source of all manifests.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::setup::python::HELM;
use crate::workspace::Workspace;

/// Where it is.
const CHART: &str = "deploy/chart/osm-interceptor";

/// As what it is rendered.
const RELEASE: &str = "osm-interceptor";
const NAMESPACE: &str = "osm-system";

/// Lints the chart under the values given on the command line and prints what it renders to.
const HELM_PY: &str = include_str!("helm.py");

/// What every manifest begins with.
const HEADER: &str =
    "# Rendered from the chart by `cargo xtask render-manifests`: change the chart, not this.\n";

/// What becomes the manifest of everything but the custom kinds, in the order of applying.
const OBJECTS: [&str; 3] = ["namespace.yaml", "rbac.yaml", "daemonset.yaml"];

/// The templates of a chart and what they came to, by their paths in it.
pub type Rendered = BTreeMap<String, String>;

/// The manifests for those who use no Helm: file names, and texts.
///
/// # Errors
///
/// When the chart has faults.
pub fn manifests(workspace: &Workspace) -> Result<Vec<(&'static str, String)>> {
    let rendered = render(workspace, &json!({ "namespace": { "create": true } }))?;
    let objects = OBJECTS.map(|name| format!("templates/{name}"));
    Ok(vec![
        (
            "crds.yaml",
            joined(&rendered, &["crds/meshconfigs.yaml".into()])?,
        ),
        ("osm-interceptor.yaml", joined(&rendered, &objects)?),
    ])
}

/// With everything that is off by default.
///
/// # Errors
///
/// When the chart has faults.
pub fn whole(workspace: &Workspace) -> Result<Rendered> {
    let values = json!({
        "namespace": { "create": true },
        "image": { "digest": format!("sha256:{}", "0".repeat(64)) },
        "imagePullSecrets": [{ "name": "registry" }],
        "serviceAccount": { "annotations": { "example.com/identity": "agent" } },
        "mesh": { "create": true },
        "agent": {
            "ipFamilies": "dual",
            "http": { "address": "::" },
            "sharedCgroup": "kubepods",
            "env": [{ "name": "RUST_BACKTRACE", "value": "1" }],
        },
        "cni": { "install": true },
        "seLinuxOptions": { "type": "spc_t" },
        "podAnnotations": { "example.com/note": "none" },
        "podLabels": { "example.com/tier": "node" },
        "monitoring": {
            "labels": { "release": "prometheus" },
            "podMonitor": { "enabled": true },
            "alerts": { "enabled": true },
            "dashboards": { "enabled": true },
        },
    });
    render(workspace, &values)
}

/// Lints and renders.
///
/// # Errors
///
/// With what Helm finds fault with.
pub fn render(workspace: &Workspace, values: &Value) -> Result<Rendered> {
    let mut helm = HELM.python(workspace);
    helm.args(["-c", HELM_PY])
        .arg(workspace.root().join(CHART))
        .args([RELEASE, NAMESPACE, &values.to_string()]);
    let output = helm.output().context("starting python3")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the chart has faults:\n{}", said.trim_end());
    }
    serde_json::from_slice(&output.stdout).context("reading what Helm rendered")
}

fn joined(rendered: &Rendered, paths: &[String]) -> Result<String> {
    let mut text = HEADER.to_owned();
    for (index, path) in paths.iter().enumerate() {
        let part = rendered
            .get(path)
            .with_context(|| format!("the chart renders no {path}"))?;
        if index > 0 {
            text.push_str("---\n");
        }
        text.push_str(part.trim());
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn chart_is_of_the_version_of_the_workspace() {
        let workspace = Workspace::locate().expect("this crate is in the workspace");
        let path = workspace.root().join(CHART).join("Chart.yaml");
        let text = fs::read_to_string(path).expect("the chart");
        for key in ["version", "appVersion"] {
            let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
            assert!(text.lines().any(|it| it == line), "{line:?} in {text}");
        }
    }

    #[test]
    fn manifest_is_its_parts_in_order() {
        let rendered = Rendered::from([
            ("a".to_owned(), "\nkind: A\n".to_owned()),
            ("b".to_owned(), "kind: B".to_owned()),
        ]);
        let text = joined(&rendered, &["b".into(), "a".into()]).expect("both are there");
        assert_eq!(text, format!("{HEADER}kind: B\n---\nkind: A\n"));
        assert!(joined(&rendered, &["c".into()]).is_err());
    }
}
