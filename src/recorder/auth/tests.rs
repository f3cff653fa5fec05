use k8s_openapi::api::authentication::v1::UserInfo;

use super::*;

const AUDIENCE: &str = "sidecarta-recorder";

fn agents() -> AgentAccount {
    AgentAccount {
        account: ("sidecarta".to_owned(), "sidecarta-agent".to_owned()),
        audience: AUDIENCE.to_owned(),
    }
}

fn named(name: &str) -> Caller {
    Caller { name: name.to_owned(), ..Caller::default() }
}

/// The answer of the API server about a valid token of `ann`.
fn valid(audiences: &[&str]) -> TokenReviewStatus {
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(audiences.iter().map(|a| (*a).to_owned()).collect()),
        user: Some(UserInfo { username: Some("ann".to_owned()), ..UserInfo::default() }),
        ..TokenReviewStatus::default()
    }
}

#[test]
fn a_token_that_is_missing_empty_or_too_long_is_refused_without_a_question() {
    let long = "x".repeat(MAX_TOKEN + 1);
    for token in [None, Some(""), Some(long.as_str())] {
        assert!(matches!(checked_token(token), Err(Denied::Unknown(_))));
    }
    assert_eq!(checked_token(Some("t")), Ok("t"));
}

#[test]
fn a_user_counts_only_where_the_api_server_says_that_the_token_is_valid() {
    assert_eq!(caller_of(valid(&[]), None), Ok(named("ann")));
    for authenticated in [Some(false), None] {
        let status = TokenReviewStatus { authenticated, ..valid(&[]) };
        assert!(matches!(caller_of(status, None), Err(Denied::Unknown(_))));
    }
}

#[test]
fn a_token_of_an_agent_must_be_made_for_its_audience() {
    assert_eq!(caller_of(valid(&["other", AUDIENCE]), Some(AUDIENCE)), Ok(named("ann")));
    let without = TokenReviewStatus { audiences: None, ..valid(&[]) };
    for status in [valid(&["other"]), without] {
        assert!(matches!(caller_of(status, Some(AUDIENCE)), Err(Denied::Unknown(_))));
    }
}

#[test]
fn only_the_service_account_of_agents_is_an_agent() {
    let agent = named("system:serviceaccount:sidecarta:sidecarta-agent");
    assert_eq!(check_account(&agent, &agents()), Ok(()));
    for other in ["ann", "system:serviceaccount:other:sidecarta-agent", "sidecarta-agent"] {
        assert!(matches!(check_account(&named(other), &agents()), Err(Denied::Forbidden(_))));
    }
}

#[test]
fn an_empty_claim_of_a_token_is_none() {
    let mut caller = named("ann");
    caller.extra.insert(NODE_NAME.to_owned(), vec![String::new()]);
    caller.extra.insert(POD_NAME.to_owned(), vec!["agent-x".to_owned()]);
    assert_eq!(claim(&caller, NODE_NAME), None);
    assert_eq!(claim(&caller, POD_NAME), Some("agent-x"));
}

#[test]
fn reading_needs_list_and_deciding_needs_update_of_sidecars_in_the_namespace() {
    for (right, verb) in [(Right::Read, "list"), (Right::Decide, "update")] {
        let namespace = Some("shop".to_owned());
        let question = RightQuestion { caller: named("ann"), right, namespace };
        let spec = right_review(&question).spec;
        let asked = spec.resource_attributes.unwrap();
        assert_eq!(spec.user.as_deref(), Some("ann"));
        assert_eq!((asked.verb.as_deref(), asked.namespace.as_deref()), (Some(verb), Some("shop")));
        assert_eq!(asked.resource.as_deref(), Some("sidecars"));
        assert_eq!(asked.group.as_deref(), Some("networking.istio.io"));
    }
}

#[test]
fn a_right_that_is_missing_is_named_with_its_namespace() {
    let denied = lacks_right(&named("bob"), Right::Decide, Some("shop")).to_string();
    let want = "bob may not update sidecars.networking.istio.io in the namespace shop";
    assert_eq!(denied, want);
    let denied = lacks_right(&named("bob"), Right::Read, None).to_string();
    assert!(denied.contains("all namespaces (name one with -n)"), "{denied}");
}
