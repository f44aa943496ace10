//! The topology and its revision belong together.

use super::*;

/// Whoever changes what this tells raises [`REVISION`] with it.
#[test]
fn each_topology_has_a_revision_of_its_own() {
    let limits = Limits::default();
    let mut told = Vec::new();
    for name in STREAMS {
        let StreamConfig { name, mut subjects, retention, discard, allow_batch_publish, .. } = stream(name, &limits);
        subjects.sort();
        told.push(format!("{name} {} {retention:?} {discard:?} {allow_batch_publish}", subjects.join(" ")));
    }
    for durable in Durable::ALL {
        let config = consumer(*durable, &limits);
        told.push(format!("{durable} <- {} {:?}", config.filter_subjects.join(" "), config.ack_policy));
    }
    let dropped_and_redriven = "dead-log.dropped dead-log.redriven";
    let events = "checkout.abandoned checkout.completed checkout.failed checkout.started checkout.watermark \
                  payment.debited payment.declined payment.refunded stock.failed stock.reserved";
    let advisories =
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.CHECKOUT.> $JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.CHECKOUT.>";
    let of_revision_2 = [
        format!("CHECKOUT {events} Limits Old true"),
        "DEAD_LETTERS dead.> Limits New false".to_owned(),
        format!("DEAD_LETTERS_LOG {dropped_and_redriven} Limits Old false"),
        format!("ADVISORIES {advisories} Limits Old false"),
        "order <- payment.declined stock.reserved payment.refunded Explicit".to_owned(),
        "payment <- checkout.started stock.failed checkout.watermark Explicit".to_owned(),
        "stock <- payment.debited checkout.abandoned checkout.watermark Explicit".to_owned(),
    ];
    assert_eq!((told, REVISION), (of_revision_2.to_vec(), 2));
}
