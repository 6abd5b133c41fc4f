"""Tables of accounts and agreements become an `Ownership`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table
from gpu_margin.ownership import Agreements, Ownership
from gpu_margin.portfolio import row_offsets

ACCOUNT_COLUMNS = ("account_id", "owner", "venue")
AGREEMENT_COLUMNS = ("owner", "venues", "max_offset")
# Columns whose entries may be lists, in files and frames that know such.
AGREEMENT_LISTS = ("venues",)

# In an agreement, every owner.
EVERYONE = "*"
_SEPARATORS = "[;|,]"
_EVERYONE = pl.col("owner") == EVERYONE


@dataclass(frozen=True)
class LoadedOwnership:
    """Owners, venues and agreements, and the failed rows of both tables."""

    ownership: Ownership
    failures: pl.DataFrame


def load_ownership(accounts: Table, agreements: Table) -> LoadedOwnership:
    """Validate accounts and agreements, and see which agreements each owner has.

    An agreement of everyone (owner `*`) holds for each owner. Where a venue is in two agreements
    that hold for an owner, neither does: what both cover would count twice. The owner's other
    agreements, and an agreement of everyone for other owners, stay. Agreements may name owners and
    venues that no account has.
    """
    owned, account_failures = _accounts(accounts)
    valid, row_failures = _agreement_rows(agreements)
    terms = _terms(valid)
    shared = terms.group_by(ROW).agg(pl.col("twice", "against_everyone").any())
    found = rules.check(
        valid.join(shared, on=ROW, how="left", maintain_order="left"),
        agreements.source,
        _OVERLAP_RULES,
    )
    resolved = _resolved(terms, rules.passing(valid, found), owned["owner"].unique())
    return LoadedOwnership(
        _encode(owned, resolved),
        join_failures(
            [accounts.failures, account_failures, agreements.failures, row_failures, found]
        ),
    )


def _accounts(accounts: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Valid rows (account_id, owner, venue) by account, and the failed ones."""
    frame = rules.text_columns(accounts.good, ACCOUNT_COLUMNS)
    several = pl.col("venue").str.contains(_SEPARATORS)
    found = rules.check(
        frame,
        accounts.source,
        [
            *rules.missing_text("account_id"),
            *rules.unique(["account_id"], "duplicate account_id: all copies fail, keep one row"),
            *rules.missing_text("owner"),
            Rule(f"owner {EVERYONE} is every owner in agreements: name one", "owner", _EVERYONE),
            *rules.missing_text("venue"),
            Rule("venue has ; or | or , in it: an account is at one venue", "venue", several),
        ],
    )
    return rules.passing(frame, found).sort("account_id"), found


def _agreement_rows(agreements: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows (row, owner, venues, max_offset, names) valid each by itself, and the failed ones.

    `names` are the distinct venues.
    """
    frame = rules.text_columns(agreements.good, ["owner", "venues"])
    name = pl.element().str.strip_chars()
    names = pl.col("venues").str.replace_all(_SEPARATORS, ";").str.split(";").list.eval(name)
    frame = rules.number_columns(frame, ["max_offset"]).with_columns(
        names.list.eval(pl.element().filter(pl.element() != "")).list.unique().alias("names")
    )
    outside = (pl.col("max_offset") < 0) | (pl.col("max_offset") > 1)
    found = rules.check(
        frame,
        agreements.source,
        [
            *rules.missing_text("owner"),
            *rules.missing_text("venues"),
            Rule(
                "fewer than two venues: name those that net, with ; between them",
                "venues",
                pl.col("names").list.len() < 2,
            ),
            *rules.missing_number(frame, "max_offset"),
            Rule(
                "max_offset outside [0, 1]: it is the share of the offset that counts",
                "max_offset",
                outside,
            ),
        ],
    )
    return rules.passing(frame, found), found


_OVERLAP_RULES = [
    Rule(
        "venue in two agreements of one owner: none of them holds; leave each venue in one of them",
        "venues",
        pl.col("twice"),
    ),
    Rule(
        f"venue in two agreements of one owner, one of them that of all owners ({EVERYONE}): for "
        "this owner neither holds; leave the venue out of one, or name the owners of the other",
        "venues",
        pl.col("against_everyone"),
    ),
]


def _terms(valid: pl.DataFrame) -> pl.DataFrame:
    """Rows (row, owner, venue, max_offset), and who else has the owner's venue.

    `twice`: another agreement of the same owner, `*` being one; `against_everyone`: one of `*`.
    """
    columns = [ROW, "owner", pl.col("names").alias("venue"), "max_offset"]
    terms = valid.select(columns).explode("venue")
    of_everyone = terms.filter(_EVERYONE)["venue"].unique().implode()
    return terms.with_columns(
        (pl.len().over("owner", "venue") > 1).alias("twice"),
        (~_EVERYONE & pl.col("venue").is_in(of_everyone)).alias("against_everyone"),
    )


def _resolved(terms: pl.DataFrame, standing: pl.DataFrame, owners: pl.Series) -> pl.DataFrame:
    """Rows (owner, row, venue, max_offset): what holds for each of the owners."""
    columns = ["owner", ROW, "venue", "max_offset"]
    known = pl.DataFrame({"owner": owners})
    held = terms.join(standing.select(ROW), on=ROW, how="semi")
    own = held.filter(~_EVERYONE).join(known, on="owner", how="semi")
    of_everyone = terms.filter(_EVERYONE).select(ROW, "venue")
    clashes = (
        terms.filter("against_everyone").select("owner", "venue").join(of_everyone, on="venue")
    )
    general = held.filter(_EVERYONE).drop("owner").join(known, how="cross")
    general = general.join(clashes.select("owner", ROW).unique(), on=["owner", ROW], how="anti")
    return pl.concat([own.select(columns), general.select(columns)])


def _encode(owned: pl.DataFrame, resolved: pl.DataFrame) -> Ownership:
    """Rows (account_id, owner, venue), sorted by account, and resolved agreements, as codes."""
    owners = owned["owner"].unique().sort()
    venues = pl.concat([owned["venue"], resolved["venue"]]).unique().sort()
    terms = (
        resolved.with_columns(pl.col("venue").min().over("owner", ROW).alias("first"))
        .sort("owner", "first", "venue")
        .with_columns(pl.struct("owner", ROW).rle_id().cast(pl.Int64).alias("agreement"))
    )
    each = terms.unique("agreement", keep="first", maintain_order=True)
    found = owned.join(
        terms.select("owner", "venue", "agreement"),
        on=["owner", "venue"],
        how="left",
        maintain_order="left",
    )
    return Ownership(
        accounts=owned["account_id"],
        owner=_code(owned["owner"], owners),
        venue=_code(owned["venue"], venues),
        agreement=_ints(found["agreement"].fill_null(-1)),
        owners=owners,
        venues=venues,
        agreements=Agreements(
            owner=_code(each["owner"], owners),
            offsets=row_offsets(_ints(terms["agreement"]), len(each)),
            venue=_code(terms["venue"], venues),
            max_offset=each["max_offset"].to_numpy().astype(np.float64, copy=False),
        ),
    )


def _code(values: pl.Series, names: pl.Series) -> NDArray[np.int64]:
    """Position of each value among the sorted unique names."""
    lookup = pl.DataFrame({"name": names}).with_row_index("code")
    frame = pl.DataFrame({"name": values})
    return _ints(frame.join(lookup, on="name", how="left", maintain_order="left")["code"])


def _ints(series: pl.Series) -> NDArray[np.int64]:
    return series.to_numpy().astype(np.int64, copy=False)
