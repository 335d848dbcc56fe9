//! By which means the pod is intercepted, and how the agent is told.

use std::ffi::OsString;
use std::fmt;

use clap::ValueEnum;
use osm_tests::{Agent, Need, Outcome, Pod, TempDir};

use crate::expectation::Kept;

/// The means. The rows of the demo are the same for all of them, but for [`Mode::kept_open`].
///
/// What else may differ is in none of them: how the agent words what it did, and to what the
/// sidecar's own socket is bound where it accepted an inbound connection. By eBPF that is the pod's
/// address and the port that was dialled, by iptables the pod's address and 15003.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// eBPF, by `osm-agent attach`
    Ebpf,
    /// iptables-legacy, by `osm-agent iptables apply`
    IptablesLegacy,
    /// iptables-nft, by `osm-agent iptables apply`
    IptablesNft,
}

/// Lists as the agent is given them: fields of the `MeshConfig`'s `spec.traffic`, and an annotation.
#[derive(Debug)]
pub struct Lists {
    /// Names and values of the fields.
    pub traffic: &'static [(&'static str, &'static str)],
    /// Key and value.
    pub annotation: Option<(&'static str, &'static str)>,
}

/// One of the two iptables.
#[derive(Clone, Copy, Debug)]
pub struct Iptables {
    /// What the agent calls it.
    name: &'static str,
    /// What prints its rules.
    pub save: &'static str,
}

impl Mode {
    /// Which iptables, if any.
    pub fn iptables(self) -> Option<Iptables> {
        match self {
            Self::Ebpf => None,
            Self::IptablesLegacy => Some(Iptables {
                name: "legacy",
                save: "iptables-legacy-save",
            }),
            Self::IptablesNft => Some(Iptables {
                name: "nft",
                save: "iptables-nft-save",
            }),
        }
    }

    /// What the demo takes in this mode, besides what it always takes.
    pub fn needs(self) -> Vec<Need> {
        let iptables = self.iptables().into_iter();
        iptables.map(|it| Need::Program(it.save)).collect()
    }

    /// Has the agent intercept the pod, or change its lists.
    pub fn attach(self, agent: &Agent, pod: &Pod, lists: &Lists) -> Outcome {
        let config = lists.mesh_config();
        let Some(iptables) = self.iptables() else {
            let attach = agent.attach(pod).option("--mode", "ebpf").config(&config);
            let attach = match lists.annotation {
                Some((key, value)) => attach.annotation(key, value),
                None => attach,
            };
            return attach.run();
        };
        let files = TempDir::new();
        let mut args = iptables.command("apply", pod);
        args.push("--config".into());
        args.push(files.file("mesh-config.yaml", &config).into());
        if let Some((key, value)) = lists.annotation {
            args.push(format!("--annotation={key}={value}").into());
        }
        agent.run(&args)
    }

    /// Has the agent let go of the pod.
    pub fn detach(self, agent: &Agent, pod: &Pod) -> Outcome {
        match self.iptables() {
            None => agent.detach(pod),
            Some(iptables) => agent.run(&iptables.command("cleanup", pod)),
        }
    }

    /// What becomes of connections that went through the sidecar when the agent lets go of the pod.
    ///
    /// By iptables they are only as long-lived as connection tracking, which the kernel switches
    /// off for a namespace with its last rule that needs it. In this pod nobody else has such a
    /// rule: the application's next packet gets to the server untranslated, which resets it.
    pub fn kept_open(self) -> Kept {
        match self {
            Self::Ebpf => Kept::Alive,
            Self::IptablesLegacy | Self::IptablesNft => Kept::Reset,
        }
    }

    /// What the agent calls the pod where it says what it did.
    pub fn subject(self, pod: &Pod) -> String {
        match self.iptables() {
            None => pod.name().to_owned(),
            Some(_) => format!("the network namespace {}", pod.netns.path().display()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.iptables() {
            None => f.write_str("eBPF"),
            Some(iptables) => write!(f, "iptables-{}", iptables.name),
        }
    }
}

impl Iptables {
    /// `osm-agent iptables` for the pod, with this one.
    fn command(self, what: &str, pod: &Pod) -> Vec<OsString> {
        let words = ["iptables", what, "--iptables-backend", self.name, "--netns"];
        let words = words.into_iter().map(OsString::from);
        words.chain([pod.netns.path().into()]).collect()
    }
}

impl Lists {
    fn mesh_config(&self) -> String {
        let head = "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                    metadata:\n  name: osm-mesh-config\nspec:\n  traffic:\n";
        let fields = self.traffic.iter();
        let fields = fields.map(|(field, list)| format!("    {field}: {list}\n"));
        fields.fold(head.to_owned(), |text, field| text + &field)
    }
}
