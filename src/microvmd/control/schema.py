"""Tables of the store. Queried fields are columns; the rest of each value is its ``document``."""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    false,
)

metadata = MetaData()

images = Table(
    "images",
    metadata,
    Column("account", String(12), nullable=False),
    Column("name", String(64), nullable=False),
    Column("state", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("account", "name"),
)

versions = Table(
    "versions",
    metadata,
    Column("account", String(12), nullable=False),
    Column("image_name", String(64), nullable=False),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("document", Text, nullable=False),
    Column("rebuilding", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("account", "image_name", "major", "minor"),
    Index("versions_by_state", "account", "state"),
    Index("versions_by_rebuild", "rebuilding", "account"),
)

microvms = Table(
    "microvms",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("microvm_id", String(64), nullable=False, unique=True),
    Column("account", String(12), nullable=False),
    Column("endpoint_id", String(36), nullable=False, unique=True),
    Column("image_arn", String(256), nullable=False),
    Column("image_version", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("document", Text, nullable=False),
    Column("terminated_at", Float, nullable=True),
    Column("memory_mib", Integer, nullable=False, server_default="0"),
    # Each list of MicroVMs, whatever it is filtered by, is a range of one of these.
    Index("microvms_by_account", "account", "sequence"),
    Index("microvms_by_image", "account", "image_arn", "sequence"),
    Index("microvms_by_image_version", "account", "image_arn", "image_version", "sequence"),
    Index("microvms_by_version", "account", "image_version", "sequence"),
    Index("microvms_by_phase", "phase"),
    Index("microvms_by_end", "terminated_at"),
    Index("microvms_by_use", "account", "phase", "memory_mib"),
)

client_tokens = Table(
    "client_tokens",
    metadata,
    Column("account", String(12), nullable=False),
    Column("operation", String(128), nullable=False),
    Column("token", String(128), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("resource", String(256), nullable=False),
    Column("created_at", Float, nullable=False),
    PrimaryKeyConstraint("account", "operation", "token"),
    Index("client_tokens_by_resource", "account", "resource"),
)

connectors = Table(
    "connectors",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("connector_id", String(64), nullable=False, unique=True),
    Column("account", String(12), nullable=False),
    Column("name", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("modified_at", Float, nullable=False),
    Column("document", Text, nullable=False),
    Index("connectors_by_account", "account", "sequence"),
    Index("connectors_by_name", "account", "name"),
    Index("connectors_by_state", "state", "modified_at"),
)

connector_versions = Table(
    "connector_versions",
    metadata,
    Column("connector_id", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("connector_id", "number"),
    Index("connector_versions_by_state", "state"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("account", String(12), primary_key=True),
    Column("name", String(50), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("account", String(12), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
)

user_policies = Table(
    "user_policies",
    metadata,
    Column("account", String(12), primary_key=True),
    Column("user", String(64), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("document", Text, nullable=False),
)

access_keys = Table(
    "access_keys",
    metadata,
    Column("access_key", String(32), primary_key=True),
    Column("account", String(12), nullable=False),
    Column("user", String(64), nullable=False),
    Column("sealed", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ends_at", Float, nullable=True),
    Column("last_used_at", Float, nullable=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("access_key", String(32), primary_key=True),
    Column("account", String(12), nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("sealed", Text, nullable=False),
    Index("sessions_by_account", "account", "expires_at"),
)

events = Table(
    "events",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("account", String(12), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("resource", String(128), nullable=False),
    Column("time", Float, nullable=False),
    Column("document", Text, nullable=False),
    Index("events_by_account", "account", "sequence"),
    Index("events_by_resource", "account", "resource", "sequence"),
    Index("events_by_time", "time"),
    # Who asks for what comes after a number must never miss one that got it again.
    sqlite_autoincrement=True,
)

meters = Table(
    "meters",
    metadata,
    Column("microvm_id", String(64), primary_key=True),
    Column("account", String(12), nullable=False),
    Column("image_arn", String(256), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("at", Float, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("stored_bytes", Integer, nullable=False),
    Index("meters_by_account", "account"),
)

usage = Table(
    "usage",
    metadata,
    Column("microvm_id", String(64), primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("account", String(12), nullable=False),
    Column("image_arn", String(256), nullable=False),
    Column("running_s", Float, nullable=False),
    Column("suspended_s", Float, nullable=False),
    Column("vcpu_s", Float, nullable=False),
    Column("memory_gb_s", Float, nullable=False),
    Column("read_bytes", Integer, nullable=False),
    Column("written_bytes", Integer, nullable=False),
    Column("stored_gb_s", Float, nullable=False),
    Index("usage_by_account", "account", "hour"),
)

event_places = Table(
    "event_places",
    metadata,
    Column("receiver", String(64), primary_key=True),
    Column("sequence", Integer, nullable=False),
)
