"""The limits per request: which of them are for a request, and what becomes of it.

Theory of operation
-------------------
`[limits.requests]`, or a route's own in its place, and every rule, those for all routes and those of the route, are
for a request. Which those are is known from its route and its method, so for each of these a `Plan` is made when the
configuration is compiled. A request has to be within every limit of its plan; where one refuses, none counts it.

    1. its key for each limit          refused where it has none that could be told: 403, 400
    2. a place among those under way   each `concurrent` that is not a dry run; refused where there is none
    3. the rates                       asked all together (rate_storage.py), and counted if all admit it
    4. the dry runs                    they refuse nothing, and count only what was admitted

A place taken in step 2 is given back when the request is over, whatever became of it: `on_ended` is called once for
each. That holds for one that step 3 refuses and for one whose client left while a storage was asked.

The usual plan is one limit by address with one rate. It is asked without any of that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import NamedTuple

from iocproxy.clock import Clock
from iocproxy.limits import ConcurrencyLimit, NetworkSet, Windows
from iocproxy.message import Client, Request, Response
from iocproxy.middleware.decisions import Decided
from iocproxy.middleware.guard import Guard, Refusal
from iocproxy.middleware.rate_storage import Answer, Left, Question, RateStorage, Unavailable
from iocproxy.middleware.ratelimit_fields import Policies, add_to_response, ratelimit_fields
from iocproxy.middleware.request_keys import KeyReader, NoKey
from iocproxy.telemetry import Counters

_Check = Callable[[bytes, float], float]


class RequestLimit(NamedTuple):
    """One limit. It has windows, or a bound on what is under way, or both."""

    decided: Decided  #: its name is the limit's
    windows: Windows | None
    concurrent: ConcurrencyLimit | None
    key: KeyReader
    by_address: bool  #: whether `key` is the client's address and nothing else
    status: int
    policies: Policies | None  #: what clients are told of it, None for nothing
    dry_run: bool


#: A limit, and the key that a request has for it.
_Counted = tuple[RequestLimit, bytes]


class Plan(NamedTuple):
    """The limits for the requests of one route, and what a request counts for. `by_method` has plans for the methods
    that some rule names, with all that is for such a request; the others go by `limits`."""

    limits: tuple[RequestLimit, ...]
    cost: int = 1
    by_method: Mapping[str, Plan] = {}

    def all_limits(self) -> set[RequestLimit]:
        return {*self.limits, *(limit for plan in self.by_method.values() for limit in plan.limits)}


class RequestLimits(Guard):
    """Answers for whoever is over a limit; a refused request does not count.

    `routes` holds the plans by route name; `default` is for requests without a route, at a listener that sends them on.
    """

    __slots__ = (
        "_clock",
        "_counters",
        "_default",
        "_exempt",
        "_rates",
        "_routes",
        "_running",
        "on_ended",
        "on_response",
    )

    def __init__(
        self,
        default: Plan,
        routes: Mapping[str, Plan],
        exempt: NetworkSet,
        rates: RateStorage,
        clock: Clock,
        counters: Counters,
    ) -> None:
        self._rates = rates
        self._default = self._entry(default)
        self._routes = {name: self._entry(plan) for name, plan in routes.items()}
        self._exempt = exempt or None
        self._clock = clock
        self._counters = counters
        self._running: dict[Request, _Running] = {}  #: requests under way that something is remembered of
        # A hook costs every request a call, `on_response` every response a copy of its head: only where it is needed.
        limits = {limit for plan in (default, *routes.values()) for limit in plan.all_limits()}
        told = any(limit.policies is not None for limit in limits)
        self.on_response = self._tell if told else None
        self.on_ended = self._ended if told or any(limit.concurrent is not None for limit in limits) else None

    def _entry(self, plan: Plan) -> tuple[_Check | None, Plan | None]:
        """The plan, and the one question that the usual one needs; no plan where there is nothing to ask."""
        if not plan.limits and not plan.by_method:
            return None, None
        if len(plan.limits) == 1 and not plan.by_method and plan.cost == 1:
            (only,) = plan.limits
            if only.windows is not None and only.concurrent is None and only.by_address and only.policies is None:
                return self._rates.shortcut(only.windows), plan
        return None, plan

    def on_request(self, request: Request) -> Refusal | Awaitable[Refusal | None] | None:
        check, plan = self._routes.get(request.route, self._default)
        # Who is exempt is not even looked up: it would take the place of a client that has to be remembered.
        if plan is None or (self._exempt is not None and request.address in self._exempt):
            return None
        if check is None:
            return self._judge(request, plan)
        wait = check(request.key, self._clock())
        if not wait:
            return None
        (limit,) = plan.limits
        if limit.dry_run:
            self._would_refuse(request, [(limit, request.key)])
            return None
        return self._over(request, limit, request.key, wait)

    def _ended(self, client: Client, request: Request | None, status: int) -> None:
        """See `Guard`."""
        del client, status
        if request is not None:
            self._leave(request)

    def _tell(self, request: Request, response: Response) -> None:
        running = self._running.get(request)
        if running is not None and running.fields:
            add_to_response(response.fields, running.fields)

    # ── a request with several limits, or with one that is not of the usual kind ─────────────────────────────────

    def _judge(self, request: Request, plan: Plan) -> Refusal | Awaitable[Refusal | None] | None:
        if plan.by_method:
            plan = plan.by_method.get(request.method, plan)
        asked: list[_Counted] = []  # for each question, whose it is
        questions: list[Question] = []
        places: list[_Counted] = []
        dry_places: list[_Counted] = []
        would: list[_Counted] = []  # what dry runs would have refused
        # :: Step 1, the keys
        for limit in plan.limits:
            key = limit.key(request)
            if isinstance(key, NoKey):
                if key is NoKey.SKIPPED:
                    continue
                if not limit.dry_run:
                    return self._without_key(request, limit, key)
                would.append((limit, request.key))
                continue
            counted = (limit, key)
            if limit.windows is not None:
                asked.append(counted)
                questions.append(
                    Question(
                        limit.decided.name, limit.windows, key, plan.cost, not limit.dry_run, limit.policies is not None
                    )
                )
            if limit.concurrent is not None:
                (dry_places if limit.dry_run else places).append(counted)
        # :: Step 2, what is under way
        if places:
            running = self._running[request] = _Running()
            for limit, key in places:
                assert limit.concurrent is not None
                if limit.concurrent.acquire(key) is not None:
                    self._leave(request)
                    return self._too_many(request, limit, key)
                running.held.append((limit.concurrent, key))
        # :: Step 3, the rates
        if not questions:
            self._admit(request, dry_places, would, ())
            return None
        try:
            answers = self._rates.ask(questions)
        except Unavailable:
            return self._nobody_knows(request)
        if isinstance(answers, Awaitable):
            return self._answered_later(request, asked, dry_places, would, answers)
        return self._answered(request, asked, dry_places, would, answers)

    async def _answered_later(
        self,
        request: Request,
        asked: Sequence[_Counted],
        dry_places: Sequence[_Counted],
        would: list[_Counted],
        answers: Awaitable[Sequence[Answer]],
    ) -> Refusal | None:
        try:
            said = await answers
        except Unavailable:
            return self._nobody_knows(request)
        return self._answered(request, asked, dry_places, would, said)

    def _answered(
        self,
        request: Request,
        asked: Sequence[_Counted],
        dry_places: Sequence[_Counted],
        would: list[_Counted],
        answers: Sequence[Answer],
    ) -> Refusal | None:
        tightest: _Counted | None = None
        longest = 0.0
        told: list[tuple[Policies, Sequence[Left]]] = []
        for counted, (wait, left) in zip(asked, answers, strict=True):
            limit = counted[0]
            if wait:
                if limit.dry_run:
                    would.append(counted)
                elif wait > longest:
                    tightest, longest = counted, wait
            if left and limit.policies is not None:
                told.append((limit.policies, left))
        fields = ratelimit_fields(told) if told else ()
        if tightest is not None:
            self._leave(request)
            return self._over(request, *tightest, longest, fields)
        if fields or dry_places or would:
            self._admit(request, dry_places, would, fields)
        return None

    def _admit(
        self,
        request: Request,
        dry_places: Sequence[_Counted],
        would: list[_Counted],
        fields: Sequence[tuple[str, str]],
    ) -> None:
        # :: Step 4, the dry runs; one that would have refused the request already does not count it as under way
        over = [limit for limit, _ in would]
        held: list[tuple[ConcurrencyLimit, bytes]] = []
        for limit, key in dry_places:
            if limit not in over:
                assert limit.concurrent is not None
                if limit.concurrent.acquire(key) is None:
                    held.append((limit.concurrent, key))
                else:
                    would.append((limit, key))
        if held or fields:
            running = self._running.setdefault(request, _Running())
            running.held += held
            running.fields = fields
        if would:
            self._would_refuse(request, would)

    def _leave(self, request: Request) -> None:
        running = self._running.pop(request, None)
        if running is not None:
            for limit, key in running.held:
                limit.release(key)

    # ── refusing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _over(
        self,
        request: Request,
        limit: RequestLimit,
        key: bytes,
        wait: float,
        fields: Sequence[tuple[str, str]] = (),
    ) -> Refusal:
        headers = list(fields)
        # RFC 6585 section 4 and RFC 9110 section 15.6.4; with another status it would mean nothing. Whole seconds
        # (RFC 9110 section 10.2.3), rounded up, so that whoever waits so long gets through.
        if limit.status in {429, 503}:
            headers.append(("Retry-After", str(ceil(wait))))
        return self._refuse(request, limit, key, limit.status, f"over the limit {limit.decided.name!r}", headers)

    def _too_many(self, request: Request, limit: RequestLimit, key: bytes) -> Refusal:
        """When one of the requests under way ends nobody knows, so there is no Retry-After that could be true."""
        why = f"too many requests under way for the limit {limit.decided.name!r}"
        return self._refuse(request, limit, key, limit.status, why)

    def _nobody_knows(self, request: Request) -> Refusal:
        """No limit's doing, so none of them counts it as refused."""
        self._leave(request)
        return Refusal(503, "the limits' storage cannot be asked", [("Retry-After", "1")])

    def _without_key(self, request: Request, limit: RequestLimit, why: NoKey) -> Refusal:
        status, said = (400, "an ambiguous key") if why is NoKey.AMBIGUOUS else (403, "no key")
        return self._refuse(request, limit, request.key, status, f"{said} for the limit {limit.decided.name!r}")

    def _refuse(
        self,
        request: Request,
        limit: RequestLimit,
        key: bytes,
        status: int,
        why: str,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Refusal:
        limit.decided.refuse(key, request.address, route=request.route)
        self._counters.requests_limited += 1
        return Refusal(status, why, headers)

    def _would_refuse(self, request: Request, limits: Sequence[_Counted]) -> None:
        for limit, key in limits:
            limit.decided.refuse(key, request.address, route=request.route)
        self._counters.dry_run_requests += 1


class _Running:
    """What is remembered of a request until it is over: places to give back, and fields for its response."""

    __slots__ = ("fields", "held")

    def __init__(self) -> None:
        self.held: list[tuple[ConcurrencyLimit, bytes]] = []
        self.fields: Sequence[tuple[str, str]] = ()
