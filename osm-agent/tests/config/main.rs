//! What is accepted as configuration, what it then means, and what is said otherwise.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use osm_agent::config::{
    ANNOTATIONS, InterceptionMode, Lists, LocalProxyMode, MAX_SIZE, MeshConfig, SidecarIdentity,
};
use rstest::rstest;

mod annotations;
mod misspelt;

const HEAD: &str = "kind: MeshConfig\napiVersion: config.openservicemesh.io/v1alpha3\n";

/// Reads a configuration whose `spec` is this YAML, which is one line.
fn with_spec(spec: &str) -> Result<MeshConfig, String> {
    parse(&format!("{HEAD}spec: {spec}\n"))
}

fn with_traffic(traffic: &str) -> Result<MeshConfig, String> {
    with_spec(&format!("{{traffic: {{{traffic}}}}}"))
}

fn parse(text: &str) -> Result<MeshConfig, String> {
    MeshConfig::parse(text, "mesh.yaml").map_err(|error| error.to_string())
}

fn annotated(pairs: &[(&str, &str)]) -> Result<Lists, String> {
    Lists::from_annotations(pairs.iter().copied()).map_err(|error| error.to_string())
}

fn ranges(list: &[&str]) -> BTreeSet<ipnet::IpNet> {
    list.iter().map(|range| range.parse().unwrap()).collect()
}

/// A file that goes away with the test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let unique = format!("config-{}-{name}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        // It may be gone, and nothing else can be done about it here.
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn object_of_kubernetes_parses_whole() {
    let text = r#"
apiVersion: config.openservicemesh.io/v1alpha2
kind: MeshConfig
metadata:
  name: osm-mesh-config
  generation: 7
  annotations: {note: "left alone", 5: five}
spec:
  certificate: {serviceCertValidityDuration: 24h}
  sidecar:
    identity: uid-and-cgroup
    localProxyMode: PodIP
    logLevel: error
    shortcut: true
  traffic:
    enableEgress: true
    inboundPortExclusionList: [6379]
    interceptionMode: ebpf
    networkInterfaceExclusionList: [eth1, "0"]
    outboundIPRangeExclusionList: &ranges
    - 10.0.0.0/8
    - fd00::/8
    outboundIPRangeInclusionList: *ranges
    outboundPortExclusionList: [1, 65535, 0x50]
    reservedPortGuard: false
status: null
"#;
    let config = parse(text).unwrap();
    let both = ranges(&["10.0.0.0/8", "fd00::/8"]);
    assert_eq!(
        config,
        MeshConfig {
            lists: Lists {
                outbound_ranges_excluded: both.clone(),
                outbound_ranges_included: both,
                outbound_ports_excluded: [1, 80, 65535].into(),
                inbound_ports_excluded: [6379].into(),
            },
            excluded_interfaces: ["0".to_owned(), "eth1".to_owned()].into(),
            interception_mode: InterceptionMode::Ebpf,
            local_proxy_mode: LocalProxyMode::PodIp,
            shortcut: true,
            open_ports: true,
            sidecar_identity: SidecarIdentity::UidAndCgroup,
            misspelt: Vec::new(),
        }
    );
}

#[test]
fn json_means_what_yaml_means() {
    let json = r#"{"kind": "MeshConfig", "apiVersion": "config.openservicemesh.io/v1alpha3",
        "spec": {"traffic": {"interceptionMode": "none", "outboundPortExclusionList": [80],
                             "outboundIPRangeExclusionList": ["::/0"]}}}"#;
    let yaml = "{interceptionMode: none, outboundPortExclusionList: [80], \
                outboundIPRangeExclusionList: [::/0]}";
    assert_eq!(parse(json), with_spec(&format!("{{traffic: {yaml}}}")));
    assert_eq!(
        parse(json).unwrap().interception_mode,
        InterceptionMode::None
    );
}

#[rstest]
#[case::no_spec(HEAD.to_owned())]
#[case::null_spec(format!("{HEAD}spec:\n"))]
#[case::empty_spec(format!("{HEAD}spec: {{}}\n"))]
#[case::null_parts(format!("{HEAD}spec: {{traffic: null, sidecar: ~}}\n"))]
#[case::null_list(format!("{HEAD}spec: {{traffic: {{inboundPortExclusionList: }}}}\n"))]
#[case::null_shortcut(format!("{HEAD}spec: {{sidecar: {{shortcut: null}}}}\n"))]
#[case::guard_on(format!("{HEAD}spec: {{traffic: {{reservedPortGuard: true}}}}\n"))]
#[case::null_guard(format!("{HEAD}spec: {{traffic: {{reservedPortGuard: null}}}}\n"))]
#[case::null_mode(format!("{HEAD}spec: {{traffic: {{interceptionMode: null}}}}\n"))]
#[case::byte_order_mark(format!("\u{feff}{HEAD}"))]
#[case::document_markers(format!("---\n{HEAD}...\n"))]
#[case::windows_lines(HEAD.replace('\n', "\r\n"))]
fn unsaid_field_has_its_default(#[case] text: String) {
    assert_eq!(parse(&text), Ok(MeshConfig::default()));
}

#[rstest]
#[case::host_bits("2.2.2.2/24", "2.2.2.0/24")]
#[case::everything("0.0.0.0/0", "0.0.0.0/0")]
#[case::one_address("10.0.0.1/32", "10.0.0.1/32")]
#[case::v6_host_bits("fd00::1:2/64", "fd00::/64")]
#[case::v6_everything("::/0", "::/0")]
#[case::v6_with_v4_tail("64:ff9b::1.2.3.4/96", "64:ff9b::/96")]
#[case::mapped_address("::ffff:1.2.3.4/128", "1.2.3.4/32")]
#[case::mapped_everything("::ffff:1.2.3.4/96", "0.0.0.0/0")]
#[case::around_mapped("::ffff:1.2.3.4/95", "::fffe:0:0/95")]
fn range_is_read_in_normal_form(#[case] text: &str, #[case] meaning: &str) {
    let config = with_traffic(&format!("outboundIPRangeInclusionList: ['{text}']")).unwrap();
    assert_eq!(config.lists.outbound_ranges_included, ranges(&[meaning]));
    let pod = annotated(&[(ANNOTATIONS[1], text)]).unwrap();
    assert_eq!(pod, config.lists);
}

const RANGE: &str = "expected a range as address/length, such as 10.0.0.0/8 or fd00::/8";
const V4_LENGTH: &str = "expected an IPv4 address and a length from 0 to 32 without leading zeros";
const V6_LENGTH: &str = "expected an IPv6 address and a length from 0 to 128 without leading zeros";

#[rstest]
#[case::bare(
    "10.0.0.1",
    "expected address/length; for this one address write 10.0.0.1/32"
)]
#[case::bare_v6(
    "fd00::1",
    "expected address/length; for this one address write fd00::1/128"
)]
#[case::name("localhost", RANGE)]
#[case::empty("", RANGE)]
#[case::leading_zero("10.0.0.01/8", RANGE)]
#[case::short("10.0/8", RANGE)]
#[case::scope("fe80::1%eth0/64", RANGE)]
#[case::space_inside("10.0.0.0 /8", RANGE)]
#[case::space_before(" 10.0.0.0/8", RANGE)]
#[case::long_mask("1.2.3.4/99", V4_LENGTH)]
#[case::one_too_long("1.2.3.4/33", V4_LENGTH)]
#[case::overflowing("1.2.3.4/4294967304", V4_LENGTH)]
#[case::zero_in_mask("1.2.3.4/08", V4_LENGTH)]
#[case::signed("1.2.3.4/+8", V4_LENGTH)]
#[case::netmask("1.2.3.4/255.0.0.0", V4_LENGTH)]
#[case::no_mask("1.2.3.4/", V4_LENGTH)]
#[case::two_masks("1.2.3.4/8/8", V4_LENGTH)]
#[case::v6_long_mask("fd00::/129", V6_LENGTH)]
fn bad_range_is_named_with_what_was_expected(#[case] text: &str, #[case] expected: &str) {
    let list = format!("outboundIPRangeExclusionList: [1.1.1.1/32, '{text}']");
    let field = "spec.traffic.outboundIPRangeExclusionList[1]";
    assert_eq!(
        with_traffic(&list),
        Err(format!("mesh.yaml: {field} is {text:?}; {expected}"))
    );
}

const PORT: &str = "expected a port from 1 to 65535";
const INTEGER: &str = "expected a port from 1 to 65535, as an integer without quotes";

#[rstest]
#[case::zero("0", "0", PORT)]
#[case::too_high("65536", "65536", PORT)]
#[case::much_too_high("99999999999999999999", "1e20", INTEGER)]
#[case::negative("-80", "-80", PORT)]
#[case::text("'80'", "\"80\"", INTEGER)]
#[case::octal_to_some("080", "\"080\"", INTEGER)]
#[case::grouped("8_0", "\"8_0\"", INTEGER)]
#[case::fraction("80.0", "80.0", INTEGER)]
#[case::truth("true", "true", INTEGER)]
#[case::nothing("null", "null", INTEGER)]
#[case::list("[80]", "a list", INTEGER)]
fn bad_port_is_named_with_what_was_expected(
    #[case] item: &str,
    #[case] found: &str,
    #[case] expected: &str,
) {
    let list = format!("inboundPortExclusionList: [1, 2, {item}, 0]");
    let field = "spec.traffic.inboundPortExclusionList[2]";
    assert_eq!(
        with_traffic(&list),
        Err(format!("mesh.yaml: {field} is {found}; {expected}"))
    );
}

#[rstest]
#[case::longest("'fifteen-bytes-x'", None)]
#[case::dots_inside("a..b", None)]
#[case::too_long("'sixteen-bytes-xx'", Some("\"sixteen-bytes-xx\""))]
#[case::many_bytes_few_characters("'ééééééééé'", Some("\"ééééééééé\""))]
#[case::empty("''", Some("\"\""))]
#[case::dot("'.'", Some("\".\""))]
#[case::parent("'..'", Some("\"..\""))]
#[case::slash("a/b", Some("\"a/b\""))]
#[case::colon("'eth0:1'", Some("\"eth0:1\""))]
#[case::second_line("\"a\\n-j ACCEPT\"", Some("\"a\\n-j ACCEPT\""))]
#[case::end_of_string("\"a\\0b\"", Some("\"a\\0b\""))]
#[case::number("0", Some("0"))]
fn interface_is_taken_if_the_kernel_would(#[case] item: &str, #[case] refused: Option<&str>) {
    let outcome = with_traffic(&format!("networkInterfaceExclusionList: [{item}]"));
    let message = refused.map(|found| {
        format!(
            "mesh.yaml: spec.traffic.networkInterfaceExclusionList[0] is {found}; expected the \
             name of a network interface: 1 to 15 bytes, neither . nor .., without spaces, \
             slashes, colons and control characters"
        )
    });
    assert_eq!(outcome.err(), message);
}

#[rstest]
#[case::mode(
    "{traffic: {interceptionMode: EBPF}}",
    "spec.traffic.interceptionMode is \"EBPF\"; expected auto, ebpf, iptables or none"
)]
#[case::mode_off(
    "{traffic: {interceptionMode: false}}",
    "spec.traffic.interceptionMode is false; expected auto, ebpf, iptables or none"
)]
#[case::local_mode(
    "{sidecar: {localProxyMode: podip}}",
    "spec.sidecar.localProxyMode is \"podip\"; expected Localhost or PodIP"
)]
#[case::shortcut(
    "{sidecar: {shortcut: yes}}",
    "spec.sidecar.shortcut is \"yes\"; expected true or false"
)]
#[case::identity(
    "{sidecar: {identity: cgroup}}",
    "spec.sidecar.identity is \"cgroup\"; expected uid or uid-and-cgroup"
)]
#[case::guard(
    "{traffic: {reservedPortGuard: off}}",
    "spec.traffic.reservedPortGuard is \"off\"; expected true or false"
)]
#[case::list_as_annotation(
    "{traffic: {outboundPortExclusionList: '80,443'}}",
    "spec.traffic.outboundPortExclusionList is \"80,443\"; expected a list of ports"
)]
#[case::list_as_mapping(
    "{traffic: {outboundIPRangeInclusionList: {a: b}}}",
    "spec.traffic.outboundIPRangeInclusionList is a mapping; expected a list of ranges"
)]
#[case::traffic("{traffic: [80]}", "spec.traffic is a list; expected a mapping")]
#[case::spec("text", "spec is \"text\"; expected a mapping")]
fn field_of_wrong_type_is_named(#[case] spec: &str, #[case] message: &str) {
    assert_eq!(with_spec(spec), Err(format!("mesh.yaml: {message}")));
}

#[rstest]
#[case::nothing("", "is empty; expected a MeshConfig")]
#[case::comment("# later\n", "is empty; expected a MeshConfig")]
#[case::list("- kind: MeshConfig\n", "the document is a list; expected a mapping")]
#[case::no_kind("spec: {}\n", "kind is missing; expected MeshConfig")]
#[case::other_kind("kind: ConfigMap\n", "kind is \"ConfigMap\"; expected MeshConfig")]
#[case::no_version(
    "kind: MeshConfig\n",
    "apiVersion is missing; expected config.openservicemesh.io/v1alpha…"
)]
#[case::other_group(
    "kind: MeshConfig\napiVersion: example.org/v1alpha1\n",
    "apiVersion is \"example.org/v1alpha1\"; expected config.openservicemesh.io/v1alpha…"
)]
#[case::two_documents(
    "kind: MeshConfig\n---\nkind: MeshConfig\n",
    "cannot be read as YAML: only single YAML document expected but multiple found at line 3, column 1"
)]
#[case::key_twice(
    "kind: A\nkind: B\n",
    "cannot be read as YAML: duplicate mapping key `kind` is not allowed here at line 2, column 1"
)]
#[case::yaml_syntax(
    "spec: [80\n",
    "cannot be read as YAML: unclosed bracket '[' at line 1, column 7"
)]
#[case::json_syntax(
    "{\"kind\": \"MeshConfig\",\n}",
    "cannot be read as JSON: trailing comma at line 2 column 1"
)]
#[case::json_key_twice(
    "{\"kind\": 1, \"kind\": 2}",
    "cannot be read as JSON: \"kind\" is given twice at line 1 column 22"
)]
#[case::json_text_behind(
    "{\"kind\": 1} {}",
    "cannot be read as JSON: trailing characters at line 1 column 13"
)]
fn text_that_is_no_mesh_config_is_refused(#[case] text: &str, #[case] message: &str) {
    assert_eq!(parse(text), Err(format!("mesh.yaml: {message}")));
}

#[rstest]
#[case::aliases({
    let list = |item: &str| [item; 10].join(", ");
    let levels = (1..12).fold(format!("a0: &a0 [{}]\n", list("x")), |text, level| {
        format!("{text}a{level}: &a{level} [{}]\n", list(&format!("*a{}", level - 1)))
    });
    format!("{HEAD}{levels}")
}, "total_replayed_events")]
#[case::flow_depth(format!("{HEAD}spec: {}", "[".repeat(1 << 20)), "recursion limit")]
#[case::block_depth(format!("{HEAD}spec:\n  {}", "- ".repeat(1 << 20)), "depth")]
#[case::json_depth(format!("{{\"spec\": {}", "[".repeat(1 << 20)), "recursion limit")]
#[case::size(format!("{HEAD}#{}", "x".repeat(MAX_SIZE)), "is too large")]
fn hostile_text_is_refused(#[case] text: String, #[case] reason: &str) {
    let message = parse(&text).unwrap_err();
    assert!(message.to_lowercase().contains(reason), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn long_item_is_shown_in_part() {
    let message = with_traffic(&format!("interceptionMode: {}", "é".repeat(5000))).unwrap_err();
    let shown = "é".repeat(60);
    assert_eq!(
        message,
        format!(
            "mesh.yaml: spec.traffic.interceptionMode is \"{shown}\"…; expected auto, ebpf, \
             iptables or none"
        )
    );
}

#[test]
fn many_items_are_all_kept() {
    let mut text = format!("{HEAD}spec:\n  traffic:\n    outboundIPRangeExclusionList:\n");
    for n in 0..100_000_u32 {
        writeln!(text, "    - {}/32", std::net::Ipv4Addr::from_bits(n)).unwrap();
    }
    text.push_str("    outboundPortExclusionList:\n");
    for port in 1..=65535 {
        writeln!(text, "    - {port}").unwrap();
    }
    let lists = parse(&text).unwrap().lists;
    assert_eq!(lists.outbound_ranges_excluded.len(), 100_000);
    assert_eq!(lists.outbound_ports_excluded.len(), 65535);
}

#[test]
fn file_is_read_or_its_trouble_told() {
    let good = TestFile::new("good.yaml", HEAD.as_bytes());
    assert_eq!(MeshConfig::read(&good.0).unwrap(), MeshConfig::default());

    let binary = TestFile::new("binary.yaml", b"kind: \xff\n");
    // Cut off within a character if it were read to its limit only.
    let large = TestFile::new("large.yaml", &"é".repeat(MAX_SIZE / 2 + 1).into_bytes());
    let absent = PathBuf::from("/nonexistent/mesh.yaml");
    for (path, told) in [
        (
            &binary.0,
            "cannot be read: invalid utf-8 sequence of 1 bytes from index 6",
        ),
        (&large.0, "is too large; expected at most 8388608 bytes"),
        (
            &absent,
            "cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        let message = MeshConfig::read(path).unwrap_err().to_string();
        assert_eq!(message, format!("{}: {told}", path.display()));
    }
}
