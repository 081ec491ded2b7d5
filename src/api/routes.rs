//! From the operations to a route table: each path with and without a trailing slash, HEAD and OPTIONS as HTTP says, 405 with `Allow`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use poem::{
    Endpoint, IntoResponse, Request, Response, Result, Route,
    endpoint::BoxEndpoint,
    http::{HeaderValue, Method, StatusCode, header},
};
use poem_openapi::{OAuthScopes as _, OpenApi, registry::MetaOperation};

use super::{
    Error, State,
    admission::{Gate, Principal},
    audit::{Audited, Entry},
    document,
    extract::{Context, FromText as _, PathNames, Scope},
    traffic,
};
use crate::telemetry::audit::Audit;

/// The route that a request matched. Found on answers and errors, for the log and for what is counted.
#[derive(Debug, Clone)]
pub struct MatchedPath(pub Arc<traffic::Route>);

/// What a request must be allowed to do before it gets to an operation.
#[derive(Debug, Clone)]
pub struct Need(Vec<Scope>);

impl Need {
    /// One of these scopes, somewhere; in the project that the path names, if it names one.
    pub fn any_of(scopes: impl Into<Vec<Scope>>) -> Self {
        Self(scopes.into())
    }

    fn of(operation: &MetaOperation) -> Option<Self> {
        let names = operation.security.iter().flat_map(HashMap::values).next()?;
        // In their own order: the first is the least, and the one that is missed.
        Some(Self(names.iter().filter_map(|name| Scope::ALL.into_iter().find(|scope| *name == scope.name())).collect()))
    }

    fn check(&self, principal: &Principal, path: &str, project: Option<i64>) -> Result<(), Error> {
        match (self.0.as_slice(), project) {
            // Whoever may make projects, or administrate, may do so everywhere.
            ([Scope::Admin], _) => principal.check(Scope::Admin),
            ([Scope::Manage], None) if path == "/projects" => principal.check(Scope::Manage),
            ([scope], Some(project)) => principal.check_in(*scope, project),
            (scopes, _) => principal.check_somewhere(scopes),
        }
    }
}

/// An operation, and what it needs: nothing if it is open to everybody.
pub struct Operation {
    /// The operation.
    pub endpoint: BoxEndpoint<'static>,
    /// What it needs.
    pub need: Option<Need>,
    /// How it stands in the audit log; not at all if it changes nothing.
    pub(super) audited: Option<Audited>,
}
/// All methods of one path.
pub struct Resource {
    methods: Vec<(Method, Operation)>,
    gate: Gate,
    audit: Audit,
    /// Whether GET changes nothing, so that HEAD may be answered by it.
    get_is_safe: bool,
    allow: HeaderValue,
    path: MatchedPath,
    names: PathNames,
}

impl Resource {
    /// The resource at `path` (as the document writes it) that takes these methods.
    pub fn new(path: &str, state: &State, methods: Vec<(Method, Operation)>, get_is_safe: bool) -> Self {
        let mut allowed: Vec<&str> = methods.iter().map(|(method, _)| method.as_str()).collect();
        if get_is_safe && allowed.contains(&"GET") {
            allowed.push("HEAD");
        }
        allowed.push("OPTIONS");
        allowed.sort_unstable();
        let allow = HeaderValue::from_str(&allowed.join(", ")).expect("methods are ASCII");
        let names = path.split('/').filter_map(|part| Some(part.strip_prefix('{')?.strip_suffix('}')?.to_owned())).collect();
        let (gate, audit, path) = (state.gate.clone(), state.audit.clone(), MatchedPath(state.traffic.route(path)));
        Self { methods, gate, audit, get_is_safe, allow, path, names: PathNames(names) }
    }

    /// Adds it to the route table, with and without a trailing slash.
    pub fn add_to(self, route: Route) -> Route {
        let path = numbered(self.path.0.path());
        let resource = Arc::new(self);
        let route = route.at(&path, resource.clone());
        if path == "/" { route } else { route.at(format!("{path}/"), resource) }
    }

    fn operation(&self, method: &Method) -> Option<&Operation> {
        let wanted = if *method == Method::HEAD && self.get_is_safe { &Method::GET } else { method };
        self.methods.iter().find(|(method, _)| method == wanted).map(|(_, operation)| operation)
    }

    async fn answer(&self, mut request: Request) -> Result<Response> {
        request.set_data(self.names.clone());
        match self.operation(request.method()) {
            Some(Operation { endpoint, need: None, .. }) => endpoint.call(request).await,
            Some(operation @ Operation { need: Some(need), .. }) => self.admit(request, operation, need).await,
            None if request.method() == Method::OPTIONS => {
                Ok(StatusCode::NO_CONTENT.with_header(header::ALLOW, self.allow.clone()).into_response())
            }
            None => {
                let detail = format!("This path takes {}.", self.allow.to_str().unwrap_or_default());
                Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, detail).with_header(header::ALLOW, self.allow.clone()).into())
            }
        }
    }
}

impl Resource {
    /// Lets a request through to an operation if it may come in and may do that; the answer says how its limit stands, whatever it is.
    async fn admit(&self, mut request: Request, operation: &Operation, need: &Need) -> Result<Response> {
        if self.audit.has_stopped() {
            return Err(Error::unavailable("The audit log cannot be written, and nothing is done without it.").into());
        }
        let mut entry = Entry::new(&self.audit, operation.audited.as_ref(), self.path.0.path());
        let pass = match self.gate.admit(Context::of(&request).arrival()).await {
            Ok(pass) => pass,
            Err(error) => {
                entry.refused(&request, &self.gate, &error);
                return Err(error.into());
            }
        };
        entry.came_in(&request, &pass);
        let headers = pass.headers();
        let answer = match need.check(&pass.principal, self.path.0.path(), self.project(&request)) {
            Ok(()) => {
                request.set_data(pass.principal);
                operation.endpoint.call(request).await
            }
            Err(error) => Err(error.into()),
        };
        entry.answered(&answer);
        match answer {
            Ok(mut response) => {
                response.headers_mut().extend(headers);
                Ok(response)
            }
            Err(error) => Err(headers.fold(Error::from_framework(error), |error, (name, value)| error.with_header(name, value)).into()),
        }
    }

    /// The project that the path names, if it does.
    fn project(&self, request: &Request) -> Option<i64> {
        let number = self.names.0.iter().position(|name| name == "project_id")?;
        i64::from_text(request.raw_path_param(&format!("param{number}"))?).ok()
    }
}

impl Endpoint for Resource {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let mut answer = self.answer(request).await;
        match &mut answer {
            Ok(response) => drop(response.extensions_mut().insert(self.path.clone())),
            Err(error) => error.set_data(self.path.clone()),
        }
        answer
    }
}

/// The route table of an API.
pub fn routes<T: OpenApi>(api: T, state: &State) -> Route {
    let mut endpoints = HashMap::new();
    api.add_routes(&mut endpoints);
    let mut by_path: HashMap<String, HashMap<Method, BoxEndpoint<'static>>> = endpoints;
    let paths = T::meta().into_iter().flat_map(|meta| meta.paths);
    paths.fold(Route::new(), |route, meta| {
        let get_is_safe = meta.operations.iter().all(|operation| operation.method != Method::GET || document::is_safe(operation));
        let mut endpoints = by_path.remove(&numbered(&meta.path)).unwrap_or_default();
        let methods = meta.operations.iter().filter_map(|operation| {
            let endpoint = endpoints.remove(&operation.method)?;
            Some((operation.method.clone(), Operation { endpoint, need: Need::of(operation), audited: Audited::of(operation) }))
        });
        Resource::new(&meta.path, state, methods.collect(), get_is_safe).add_to(route)
    })
}

/// The paths of an API that are open to everybody, whatever their limit.
pub fn open_paths<T: OpenApi>(_: &T) -> HashSet<String> {
    let paths = T::meta().into_iter().flat_map(|meta| meta.paths);
    paths.filter(|path| path.operations.iter().all(|operation| Need::of(operation).is_none())).map(|path| path.path).collect()
}

/// A path of the document as the route table has it: the framework numbers parameters.
fn numbered(path: &str) -> String {
    let mut number = 0;
    let parts = path.split('/').map(|part| match part.starts_with('{') {
        true => {
            number += 1;
            format!(":param{}", number - 1)
        }
        false => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}
