//! What the mesh says: the `MeshConfig` object.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::{
    cursor::Cursor,
    error::Error,
    field::{self, Field},
    item,
    lists::Lists,
    node::Node,
};

/// The most that is read of a file, in bytes: far more than Kubernetes lets an object have.
pub const MAX_SIZE: usize = 8 << 20;

const API_VERSION: &str = "config.openservicemesh.io/v1alpha…";

/// The mesh-wide configuration. The default is that of a `MeshConfig` which says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// `spec.traffic.*List`, which pods add to.
    pub lists: Lists,
    /// `spec.traffic.networkInterfaceExclusionList`: traffic by way of these interfaces is
    /// not intercepted.
    pub excluded_interfaces: BTreeSet<String>,
    /// `spec.traffic.interceptionMode`.
    pub interception_mode: InterceptionMode,
    /// `spec.sidecar.localProxyMode`.
    pub local_proxy_mode: LocalProxyMode,
    /// `spec.sidecar.shortcut`: bytes between app and sidecar go from socket to socket, not by TCP.
    /// eBPF only.
    pub shortcut: bool,
    /// `spec.traffic.reservedPortGuard: false`: anybody in the pod may be bound to the sidecar's ports.
    pub open_ports: bool,
    /// `spec.sidecar.identity`.
    pub sidecar_identity: SidecarIdentity,
}

/// By what the sidecar is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SidecarIdentity {
    /// By its user.
    #[default]
    Uid,
    /// By its user and the cgroup of its container, where that is known. eBPF only.
    UidAndCgroup,
}

impl SidecarIdentity {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Uid, Self::UidAndCgroup];

    /// The name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::UidAndCgroup => "uid-and-cgroup",
        }
    }

    /// The identity of that name, which is written just so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|identity| identity.name() == name)
    }
}

/// By which means traffic is intercepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InterceptionMode {
    /// eBPF where the kernel can, iptables elsewhere.
    #[default]
    Auto,
    /// eBPF or not at all.
    Ebpf,
    /// iptables, even where the kernel can do better.
    Iptables,
    /// Nothing is intercepted.
    None,
}

impl InterceptionMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Ebpf, Self::Iptables, Self::None];

    /// The name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
            Self::None => "none",
        }
    }

    /// The mode of that name, which is written just so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// Where the sidecar finds the application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LocalProxyMode {
    /// At 127.0.0.1.
    #[default]
    Localhost,
    /// At the pod's address: the sidecar's calls to 127.0.0.1 go there instead.
    PodIp,
}

impl LocalProxyMode {
    /// Every mode.
    pub const ALL: [Self; 2] = [Self::Localhost, Self::PodIp];

    /// The name in configuration and output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Localhost => "Localhost",
            Self::PodIp => "PodIP",
        }
    }

    /// The mode of that name, which is written just so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl MeshConfig {
    /// Reads a file that holds a `MeshConfig` object; see [`Self::parse`].
    ///
    /// # Errors
    ///
    /// [`Error::Unreadable`] if the file can't be read or is not UTF-8, and what
    /// [`Self::parse`] says.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&read_text(path)?, &path.display().to_string())
    }

    /// Reads a `MeshConfig` object as Kubernetes writes it, in YAML or JSON. `origin` is what
    /// errors call the text. Fields that are not ours are left alone; a field that is missing
    /// or null has its default.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] above [`MAX_SIZE`], [`Error::Empty`], [`Error::Syntax`] if there is
    /// not exactly one document of YAML or JSON, [`Error::Field`] for a field or item that is
    /// not what it should be.
    pub fn parse(text: &str, origin: &str) -> Result<Self, Error> {
        check_size(text.len(), origin)?;
        let node = Node::parse(text, origin)?;
        if node == Node::Null {
            return Err(Error::Empty {
                origin: origin.to_owned(),
            });
        }
        let object = Cursor::root(origin, &node);
        check_type(&object)?;
        let spec = object.field("spec")?;
        let (traffic, sidecar) = (spec.field("traffic")?, spec.field("sidecar")?);
        Ok(Self {
            lists: Lists {
                outbound_ranges_excluded: ranges(&traffic, &field::OUTBOUND_RANGES_EXCLUDED)?,
                outbound_ranges_included: ranges(&traffic, &field::OUTBOUND_RANGES_INCLUDED)?,
                outbound_ports_excluded: ports(&traffic, &field::OUTBOUND_PORTS_EXCLUDED)?,
                inbound_ports_excluded: ports(&traffic, &field::INBOUND_PORTS_EXCLUDED)?,
            },
            excluded_interfaces: interfaces(&traffic, &field::INTERFACES_EXCLUDED)?,
            interception_mode: mode(
                &traffic,
                &field::INTERCEPTION_MODE,
                InterceptionMode::from_name,
            )?,
            local_proxy_mode: mode(
                &sidecar,
                &field::LOCAL_PROXY_MODE,
                LocalProxyMode::from_name,
            )?,
            shortcut: switch(&sidecar, &field::SHORTCUT)?.unwrap_or(false),
            sidecar_identity: mode(
                &sidecar,
                &field::SIDECAR_IDENTITY,
                SidecarIdentity::from_name,
            )?,
            open_ports: !switch(&traffic, &field::RESERVED_PORT_GUARD)?.unwrap_or(true),
        })
    }
}

/// Reads a file of at most [`MAX_SIZE`].
///
/// # Errors
///
/// [`Error::Unreadable`] if it can't be read or is not UTF-8, [`Error::TooLarge`].
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let origin = path.display().to_string();
    let unreadable = |cause| Error::Unreadable {
        origin: origin.clone(),
        cause,
    };
    let bytes = read_bytes(path).map_err(unreadable)?;
    // Before it is taken for text: a file that is cut off may end amid a character.
    check_size(bytes.len(), &origin)?;
    String::from_utf8(bytes)
        .map_err(|error| unreadable(io::Error::new(io::ErrorKind::InvalidData, error)))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than may be, so that what is too large is seen to be.
    File::open(path)?
        .take(MAX_SIZE as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_size(size: usize, origin: &str) -> Result<(), Error> {
    if size <= MAX_SIZE {
        return Ok(());
    }
    Err(Error::TooLarge {
        origin: origin.to_owned(),
        limit: MAX_SIZE,
    })
}

fn check_type(object: &Cursor<'_>) -> Result<(), Error> {
    let kind = object.field("kind")?;
    if kind.text("MeshConfig")? != Some("MeshConfig") {
        return Err(kind.unexpected("MeshConfig"));
    }
    let version = object.field("apiVersion")?;
    let is_ours = version.text(API_VERSION)?.is_some_and(|version| {
        version
            .strip_prefix("config.openservicemesh.io/v1alpha")
            .is_some_and(|number| {
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            })
    });
    if is_ours {
        Ok(())
    } else {
        Err(version.unexpected(API_VERSION))
    }
}

fn ranges(traffic: &Cursor<'_>, of: &Field) -> Result<BTreeSet<ipnet::IpNet>, Error> {
    traffic.field(of.name())?.list(of.takes, |item| match item {
        Node::Text(text) => item::range(text),
        _ => Err(item::range_expected()),
    })
}

fn ports(traffic: &Cursor<'_>, of: &Field) -> Result<BTreeSet<u16>, Error> {
    traffic.field(of.name())?.list(of.takes, |item| match item {
        Node::Integer(number) => item::port_number(*number),
        _ => Err(item::port_expected()),
    })
}

fn interfaces(traffic: &Cursor<'_>, of: &Field) -> Result<BTreeSet<String>, Error> {
    traffic.field(of.name())?.list(of.takes, |item| match item {
        Node::Text(name) => item::interface(name),
        _ => Err(item::interface_expected()),
    })
}

fn switch(parent: &Cursor<'_>, of: &Field) -> Result<Option<bool>, Error> {
    let field = parent.field(of.name())?;
    match field.node() {
        None | Some(Node::Null) => Ok(None),
        Some(Node::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(field.unexpected(of.takes)),
    }
}

fn mode<T: Default>(
    parent: &Cursor<'_>,
    of: &Field,
    from_name: impl Fn(&str) -> Option<T>,
) -> Result<T, Error> {
    let field = parent.field(of.name())?;
    match field.text(of.takes)? {
        None => Ok(T::default()),
        Some(name) => from_name(name).ok_or_else(|| field.unexpected(of.takes)),
    }
}
