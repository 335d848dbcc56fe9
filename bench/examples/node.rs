//! The node measurements alone.
fn main() -> anyhow::Result<()> {
    let options = osm_bench::node::Options {
        quick: std::env::args().any(|it| it == "--quick"),
        agent: "target/release/osm-agent".into(),
    };
    osm_bench::node::measure(&options, &mut |sample| println!("{sample:?}"))
}
