//! Fields that look like ours and are none.

use osm_agent::config::MeshConfig;

use crate::parse;

#[test]
fn field_that_is_almost_ours_is_doubted_and_others_are_left_alone() {
    let text = "
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
spec:
  traffic:
    enableEgress: true
    outboundPortExclusoinList: [5432]
    inboundExternalAuthorization: {enable: false}
  sidecar:
    localDNSProxy: {enable: false}
    shortcuts: true
";
    let config = parse(text).unwrap();
    let wanted = [
        (
            "outboundPortExclusoinList",
            "spec.traffic.outboundPortExclusionList",
        ),
        ("shortcuts", "spec.sidecar.shortcut"),
    ];
    assert_eq!(config.misspelt.len(), wanted.len(), "{:?}", config.misspelt);
    for (said, (written, meant)) in config.misspelt.iter().zip(wanted) {
        assert!(said.contains(written) && said.contains(meant), "{said}");
    }
    let without = MeshConfig {
        misspelt: Vec::new(),
        ..config
    };
    assert_eq!(without, MeshConfig::default());
}
