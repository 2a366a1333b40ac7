//! Rows 15 and 31: rights that are taken away and given back, credentials and certificates that expire and are renewed.

use std::time::Duration;

use super::history::What;
use super::report::by_length;
use super::service::Commits;
use super::{Report, Scene, Setup};
use crate::support::acls::{May, On, grant, revoke};
use crate::support::certificates::Days;
use crate::support::secured::{MARK, SASL_SSL, Secured};
use crate::support::{PATIENCE, eventually};

/// Services that log in as this user, who may do everything.
fn scene(secured: &Secured, address: &str, user: &str, password: &str, records: usize) -> Scene {
    let setup = Setup { services_bootstrap: Some(address), ..Setup::new(secured.bootstrap(), records) };
    let mut scene = Scene::start(setup.rate(by_length(1_000, 1_000)));
    grant(secured.bootstrap(), user, May::Read, On::Topic(&scene.topic));
    // Who may not know where the log ends cannot see that there is more.
    grant(secured.bootstrap(), user, May::Describe, On::Topic(&scene.topic));
    grant(secured.bootstrap(), user, May::Read, On::Group(&scene.group));
    for (key, value) in secured.login("SCRAM-SHA-512", user, password) {
        scene.service.set(&key, &value);
    }
    scene.service.stall_timeout = Some(Duration::from_secs(2));
    scene
}

/// How often a service said of a partition that it stands still.
fn stalls(scene: &mut Scene, number: usize) -> usize {
    let is_told = |what: &What| matches!(what, What::Logged { line } if line.contains(" is stalled at "));
    scene.lines(number).iter().filter(|line| is_told(&line.what)).count()
}

/// How many lines of a service's log begin so.
fn told(scene: &mut Scene, number: usize, begin: &str) -> usize {
    let is_told = |what: &What| matches!(what, What::Logged { line } if line.starts_with(begin));
    scene.lines(number).iter().filter(|line| is_told(&line.what)).count()
}

/// Waits until a service has said so once more, and returns how often it did in all.
#[track_caller]
fn until_told(scene: &mut Scene, number: usize, before: usize, begin: &str) -> usize {
    eventually(PATIENCE, begin, || Some(told(scene, number, begin)).filter(|told| *told > before))
}

/// Until records are handled again, or there are no more to come.
#[track_caller]
fn until_it_goes_on(scene: &mut Scene) {
    let before = scene.handled();
    eventually(PATIENCE, "records are handled again", || {
        (scene.handled() >= before + 100 || scene.load.is_done()).then_some(())
    });
}

/// The right to read the topic, then that to read the group, is taken from two services; a third is started meanwhile, so
/// that the group rebalances, and the right is given back. Each says what it may not, and a partition stalls. Whatever
/// was handled and not committed when the right went may come again, of every service that was there.
#[test]
fn row_15_revoked_rights() {
    let (user, password) = ("service", format!("{MARK}-service"));
    let secured = Secured::start(&[], &[]);
    secured.set_scram(user, &password);
    let address = secured.address(SASL_SSL);
    for (is_topic, fault) in
        [(true, "Read on the topic revoked, then a rebalance"), (false, "Read on the group revoked, then a rebalance")]
    {
        let records = by_length(15_000, 60_000);
        let mut scene = scene(&secured, &address, user, &password, records);
        let (topic, group) = (scene.topic.clone(), scene.group.clone());
        let right = if is_topic { On::Topic(&topic) } else { On::Group(&group) };
        let says =
            if is_topic { format!("no access to topic `{topic}`") } else { format!("no access to group `{group}`") };
        scene.service.commits = Commits::Overlapped(4);
        let (first, second) = (scene.spawn(), scene.spawn());
        for service in [first, second] {
            scene.until_it_handles(service, 200, PATIENCE);
        }
        let (mut times, mut bound) = (0, 0_u64);
        for _ in 0..by_length(1, 5) {
            if scene.load.is_done() {
                break;
            }
            let before = [first, second].map(|service| told(&mut scene, service, &says));
            let stalled = stalls(&mut scene, first);
            let over = told(&mut scene, first, "no longer refused");
            revoke(secured.bootstrap(), user, May::Read, right);
            for (service, before) in [first, second].into_iter().zip(before) {
                until_told(&mut scene, service, before, &says);
            }
            if is_topic {
                eventually(PATIENCE, "a partition stalls", || (stalls(&mut scene, first) > stalled).then_some(()));
            }
            bound += 3 * scene.service.records_at_risk();
            let third = scene.spawn();
            until_told(&mut scene, third, 0, "no access to ");
            grant(secured.bootstrap(), user, May::Read, right);
            until_it_goes_on(&mut scene);
            until_told(&mut scene, first, over, "no longer refused");
            // As many as partitions, so that each has one to be refused.
            scene.end_within(third, PATIENCE);
            times += 1;
        }
        let verdict = scene.finish(PATIENCE);
        Report::of(15, fault, times, records, &verdict, bound).file();
    }
}

/// The users' credentials end while services are connected: brokers let nobody stay for more than two seconds without
/// another log-in. Then the broker's certificate ends, and it is restarted. Either is reported once by each service, and
/// all go on once it is renewed. What was handled and not committed may come again, of each service.
#[test]
fn row_31_expired_credentials() {
    let (user, password) = ("service", format!("{MARK}-service"));
    let mut secured = Secured::start(&[], &[("connections.max.reauth.ms", "2000")]);
    secured.set_scram(user, &password);
    let address = secured.address(SASL_SSL);
    for (is_login, fault, says) in [
        (true, "SASL credentials expire, renewed later", "not logged in"),
        (false, "TLS certificate expires, renewed later", "no TLS connection"),
    ] {
        let records = by_length(15_000, 60_000);
        let mut scene = scene(&secured, &address, user, &password, records);
        let services = [scene.spawn(), scene.spawn()];
        scene.until_all_handle(&services, 200, PATIENCE);
        let mut times = 0;
        while times < by_length(1, 5) && !scene.load.is_done() {
            let before = services.map(|service| told(&mut scene, service, says));
            match is_login {
                true => secured.forget_scram(user),
                false => {
                    secured.show(SASL_SSL, Days(-1));
                    // Connections that are open stay so.
                    secured.broker.stop();
                    secured.broker.restart();
                }
            }
            for (service, before) in services.into_iter().zip(before) {
                until_told(&mut scene, service, before, says);
            }
            match is_login {
                true => secured.set_scram(user, &password),
                false => secured.show(SASL_SSL, Days(30)),
            }
            until_it_goes_on(&mut scene);
            for service in services {
                until_told(&mut scene, service, times, "no longer refused");
            }
            times += 1;
        }
        eventually(PATIENCE, "the load ends", || scene.load.is_done().then_some(()));
        let told = services.map(|service| told(&mut scene, service, says));
        let bound = times as u64 * 2 * scene.service.records_at_risk();
        let verdict = scene.finish(PATIENCE);
        let mut report = Report::of(31, fault, times, records, &verdict, bound);
        // Once; again where one of its connections was let in between, and another was not.
        if told.iter().any(|told| !(times..=2 * times).contains(told)) {
            report.wrong.push(format!("it was reported {told:?} times"));
        }
        report.file();
    }
}
