//! What one pod file says.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    config::{ANNOTATIONS, Cursor, Error, Node, quote, unknown_list_annotations},
    daemon::source::{Membership, PodSpec, SidecarPlace},
    pod::check_name,
};

/// Says whether a pod is in the mesh, in the words of Open Service Mesh.
const INJECTION: &str = "openservicemesh.io/sidecar-injection";

/// What is expected of a value that is a YAML or JSON string.
const TEXT: &str = "text, in quotes";

/// What is expected of one.
const CGROUP: &str = "the path of a cgroup";

/// A pod file that is good.
#[derive(Debug)]
pub(crate) struct PodFile {
    pub spec: PodSpec,
    /// What may be meant otherwise.
    pub doubts: Vec<String>,
}

/// Reads a pod's manifest, as [`super`] has it. `origin` is what errors call the text.
///
/// # Errors
/// The first thing that is wrong, and where.
pub(crate) fn parse(text: &str, origin: &str) -> Result<PodFile, Error> {
    let node = Node::parse(text, origin)?;
    let object = Cursor::root(origin, &node);
    for (field, value) in [("kind", "Pod"), ("apiVersion", "v1")] {
        let field = object.field(field)?;
        if field.text(value)? != Some(value) {
            return Err(field.unexpected(value));
        }
    }
    let metadata = object.field("metadata")?;
    let uid = metadata.field("uid")?;
    let uid = word(&uid, "a UID")?;
    let annotations = metadata.field("annotations")?;
    let place = object.field("osm")?;
    for name in place.names()? {
        if !["netns", "cgroup", "sidecarCgroup"].contains(&name) {
            let expected = "only netns, cgroup and sidecarCgroup here";
            return Err(place.field(name)?.unexpected(expected));
        }
    }
    let cgroup = place.field("cgroup")?;
    let spec = PodSpec {
        name: name(&metadata)?,
        uid: uid.map(str::to_owned),
        membership: membership(&annotations.field(INJECTION)?)?,
        annotations: own(&annotations)?,
        netns: netns(&place.field("netns")?)?,
        cgroup: word(&cgroup, CGROUP)?.map(PathBuf::from),
        sidecar: word(&place.field("sidecarCgroup")?, CGROUP)?
            .map(|path| SidecarPlace::Cgroup(path.into())),
    };
    if spec.cgroup.is_none() && spec.uid.is_none() {
        return Err(cgroup.unexpected("the path of the pod's cgroup, or metadata.uid"));
    }
    let keys = annotations.names()?;
    let doubts = unknown_list_annotations(keys)
        .map(|key| {
            format!(
                "{origin}: the annotation {} is no list of osm-agent's",
                quote(key)
            )
        })
        .collect();
    Ok(PodFile { spec, doubts })
}

/// `namespace/name`.
fn name(metadata: &Cursor<'_>) -> Result<String, Error> {
    const EXPECTED: &str = "a name of printable characters without slashes";
    let part = |field: &str| -> Result<_, Error> {
        let cursor = metadata.field(field)?;
        match word(&cursor, EXPECTED)? {
            Some(text) if text.contains('/') => Err(cursor.unexpected(EXPECTED)),
            text => Ok((cursor, text)),
        }
    };
    let (_, namespace) = part("namespace")?;
    let (cursor, name) = part("name")?;
    let name = name.ok_or_else(|| cursor.unexpected(EXPECTED))?;
    let name = format!("{}/{name}", namespace.unwrap_or("default"));
    check_name(&name).map_err(|_| cursor.unexpected("a name of at most 320 characters"))?;
    Ok(name)
}

/// Text that is not empty, and has neither spaces nor control characters.
fn word<'a>(cursor: &Cursor<'a>, expected: &str) -> Result<Option<&'a str>, Error> {
    match cursor.text(expected)? {
        Some(text) if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) => {
            Err(cursor.unexpected(expected))
        }
        text => Ok(text),
    }
}

fn netns(cursor: &Cursor<'_>) -> Result<Option<PathBuf>, Error> {
    const EXPECTED: &str = "an absolute path such as /run/netns/NAME";
    let path = word(cursor, EXPECTED)?.map(PathBuf::from);
    if path.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(cursor.unexpected(EXPECTED));
    }
    Ok(path)
}

/// A pod with a file is in the mesh unless it says otherwise.
fn membership(cursor: &Cursor<'_>) -> Result<Membership, Error> {
    let word = match cursor.node() {
        None | Some(Node::Null) => return Ok(Membership::InMesh),
        // As YAML reads it where people leave the quotes out.
        Some(Node::Bool(value)) => value.to_string(),
        Some(Node::Text(text)) => text.to_ascii_lowercase(),
        Some(_) => String::new(),
    };
    match word.as_str() {
        "enabled" | "true" | "yes" => Ok(Membership::InMesh),
        "disabled" | "false" | "no" => Ok(Membership::Outside),
        _ => Err(cursor.unexpected("enabled or disabled")),
    }
}

/// The annotations that concern interception. Whether their lists are good is not asked here.
fn own(annotations: &Cursor<'_>) -> Result<BTreeMap<String, String>, Error> {
    let mut found = BTreeMap::new();
    for key in ANNOTATIONS {
        if let Some(value) = annotations.field(key)?.text(TEXT)? {
            found.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<PodSpec, String> {
        let text = format!("apiVersion: v1\nkind: Pod\n{text}");
        let parsed = parse(&text, "web.yaml");
        parsed.map(|it| it.spec).map_err(|error| error.to_string())
    }

    #[test]
    fn file_says_name_place_and_annotations() {
        let text = "metadata:\n  name: web-0\n  namespace: shop\n  labels: {a: 1}\n  annotations:\n    \
                    other: x\n    openservicemesh.io/outbound-port-exclusion-list: '80, 81'\n\
                    spec: {containers: []}\n\
                    osm: {netns: /run/netns/web, cgroup: kubepods/pod1234, sidecarCgroup: kubepods/pod1234/a}\n";
        let key = "openservicemesh.io/outbound-port-exclusion-list";
        let expected = PodSpec {
            name: "shop/web-0".into(),
            uid: None,
            membership: Membership::InMesh,
            annotations: BTreeMap::from([(key.to_owned(), "80, 81".to_owned())]),
            netns: Some("/run/netns/web".into()),
            cgroup: Some("kubepods/pod1234".into()),
            sidecar: Some(SidecarPlace::Cgroup("kubepods/pod1234/a".into())),
        };
        assert_eq!(parsed(text), Ok(expected));
    }

    #[test]
    fn injection_that_is_disabled_leaves_the_pod_outside() {
        for (value, membership) in [
            ("disabled", Ok(Membership::Outside)),
            ("'No'", Ok(Membership::Outside)),
            ("false", Ok(Membership::Outside)),
            ("enabled", Ok(Membership::InMesh)),
            ("true", Ok(Membership::InMesh)),
            ("", Ok(Membership::InMesh)),
            ("off", Err("is \"off\"; expected enabled or disabled")),
            ("[no]", Err("is a list; expected enabled or disabled")),
        ] {
            let text = format!(
                "metadata: {{name: a, annotations: {{{INJECTION}: {value}}}}}\nosm: {{cgroup: x}}"
            );
            match (parsed(&text).map(|it| it.membership), membership) {
                (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
                (found, membership) => assert_eq!(found, membership.map_err(str::to_owned)),
            }
        }
    }

    #[test]
    fn bad_file_s_error_says_what_and_where() {
        let long = format!("metadata: {{name: {}, uid: u}}", "n".repeat(320));
        for (text, words) in [
            ("metadata: {}", "metadata.name is missing; expected a name"),
            ("metadata: {name: 7}", "metadata.name is 7; expected a name"),
            ("metadata: {name: a/b, uid: u}", "metadata.name is \"a/b\""),
            ("metadata: {name: a b, uid: u}", "metadata.name is \"a b\""),
            (long.as_str(), "expected a name of at most 320 characters"),
            (
                "metadata: {name: a, namespace: ''}",
                "metadata.namespace is \"\"",
            ),
            (
                "metadata: {name: a}",
                "osm.cgroup is missing; expected the path",
            ),
            (
                "metadata: {name: a, uid: ''}",
                "metadata.uid is \"\"; expected a UID",
            ),
            (
                "metadata: {name: a}\nosm: {cgroup: ''}",
                "osm.cgroup is \"\"",
            ),
            (
                "metadata: {name: a}\nosm: {cgroups: x}",
                "osm.cgroups is \"x\"; expected only",
            ),
            (
                "metadata: {name: a, uid: u}\nosm: {netns: web}",
                "expected an absolute path",
            ),
            (
                "metadata: {name: a, uid: u}\nosm: []",
                "osm is a list; expected a mapping",
            ),
            ("metadata: [", "web.yaml: cannot be read as YAML"),
            (
                "metadata: {name: a, uid: u, annotations: \
                 {openservicemesh.io/outbound-port-exclusion-list: 80}}",
                "outbound-port-exclusion-list is 80; expected text, in quotes",
            ),
        ] {
            let error = parsed(text).expect_err(text);
            assert!(error.starts_with("web.yaml: "), "{error}");
            assert!(error.contains(words), "{words:?} is not in: {error}");
        }
        let error = parse("kind: MeshConfig", "x.yaml")
            .expect_err("no pod")
            .to_string();
        assert_eq!(error, "x.yaml: kind is \"MeshConfig\"; expected Pod");
    }
}
