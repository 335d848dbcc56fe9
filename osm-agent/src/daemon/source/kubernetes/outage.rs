//! What failed, when to try again, and saying so once.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

/// The first wait after a failure.
const FIRST: Duration = Duration::from_millis(100);
/// What works for so long is well again.
const STEADY: Duration = Duration::from_secs(10);

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// In words, on one line.
    pub(super) text: String,
    /// The status of HTTP, where the server gave one.
    pub(super) code: Option<u16>,
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
        }
    }

    /// The resource is not known to the server.
    pub(super) fn is_not_found(&self) -> bool {
        self.code == Some(404)
    }

    /// What was known is too old to go on from: a matter of course, and no trouble.
    pub(super) fn is_expected(&self) -> bool {
        self.code == Some(410)
    }

    fn advice(&self) -> &'static str {
        match self.code {
            Some(401) => "; the agent's credentials are not valid (any more)",
            Some(403) => "; does the agent's account have the role of deploy/manifests?",
            _ => "",
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = &error {
            let message = match status.message.as_str() {
                "" => status.reason.as_str(),
                message => message,
            };
            return Self {
                text: format!(
                    "the API server answers {}: {}",
                    status.code,
                    one_line(message)
                ),
                code: Some(status.code),
            };
        }
        let chain =
            std::iter::successors(std::error::Error::source(&error), |error| error.source());
        let mut text = error.to_string();
        for cause in chain.map(ToString::to_string) {
            // Some errors say themselves what their cause says.
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        Self::new(one_line(&text))
    }
}

impl From<kube::core::request::Error> for Failure {
    fn from(error: kube::core::request::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// One series of failures. It is over when things went well for a while.
#[derive(Debug)]
pub(super) struct Outage {
    what: &'static str,
    longest_wait: Duration,
    failures: u32,
    is_announced_over: bool,
}

impl Outage {
    /// `what` works, in the plural; so far.
    pub(super) const fn new(what: &'static str, longest_wait: Duration) -> Self {
        Self {
            what,
            longest_wait,
            failures: 0,
            is_announced_over: false,
        }
    }

    /// Tells of a failure, unless it is one of a series; says how long to wait.
    /// `worked_for` is how long all went well before.
    pub(super) fn failed(&mut self, failure: &Failure, worked_for: Duration) -> Duration {
        if worked_for >= STEADY.min(self.longest_wait) {
            self.failures = 0;
        }
        if failure.is_expected() {
            tracing::debug!("Kubernetes: {}: {}", self.what, failure.text);
        } else if self.failures == 0 {
            tracing::warn!(
                "Kubernetes: {}: {}{}; the last known state stands, trying again",
                self.what,
                failure.text,
                failure.advice()
            );
            self.is_announced_over = false;
        } else {
            tracing::debug!("Kubernetes: {}: {}", self.what, failure.text);
        }
        self.failures += 1;
        jittered(
            FIRST
                .saturating_mul(1 << (self.failures - 1).min(10))
                .min(self.longest_wait),
        )
    }

    /// All is well at the moment.
    pub(super) fn works(&mut self) {
        if self.failures > 0 && !self.is_announced_over {
            tracing::info!("Kubernetes: {} are read again", self.what);
            self.is_announced_over = true;
        }
    }
}

/// Between half of a time and all of it, so that not all nodes come at once.
pub(super) fn jittered(time: Duration) -> Duration {
    // Every state has keys of its own: a random number without another dependency.
    let random = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
    let half = time / 2;
    half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let line = text.replace(['\n', '\r'], " ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
