//! Tells the loop of pods, and their owners of what is wrong with them.

use std::{collections::BTreeMap, sync::mpsc::Sender, time::Duration};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    super::{Event, Notice, PodKey, PodSpec},
    known::Known,
    membership::Complaint,
};

/// Changes come in swarms.
const SWARM: Duration = Duration::from_millis(20);

/// Sends all pods whenever they are different from those sent last; returns when nobody listens.
pub(super) async fn publish(
    known: &Known,
    events: &Sender<Event>,
    complaints: &UnboundedSender<Notice>,
) {
    let mut sent: Option<BTreeMap<PodKey, PodSpec>> = None;
    let mut made = BTreeMap::new();
    loop {
        known.changed().await;
        tokio::time::sleep(SWARM).await;
        let Some(judged) = known.judged() else {
            continue;
        };
        let mut pods = BTreeMap::new();
        let mut now = BTreeMap::new();
        for (key, (spec, complaint)) in judged {
            if let Some(complaint) = complaint {
                if made.get(&key) != Some(&complaint) {
                    tracing::warn!("pod {}: {}", spec.name, complaint.text);
                    complain(&key, &complaint, complaints);
                }
                now.insert(key.clone(), complaint);
            }
            pods.insert(key, spec);
        }
        made = now;
        if sent.as_ref() != Some(&pods) {
            if events.send(Event::Pods(pods.clone())).is_err() {
                return;
            }
            sent = Some(pods);
        }
    }
}

fn complain(key: &PodKey, complaint: &Complaint, complaints: &UnboundedSender<Notice>) {
    // Nobody to listen means that the source is ending.
    let _ = complaints.send(Notice {
        pod: Some(key.clone()),
        is_warning: true,
        reason: complaint.reason,
        text: complaint.text.clone(),
    });
}
