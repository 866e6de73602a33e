"""Every statement of flowq, in one place, prebuilt for each dialect.

Written as text with ``:name`` parameters that both dialects understand; `prepare` turns them
into the driver's positional form once. Rows are passed as tuples in the order in which the
names appear. Text and not constructs, because these run ten times for each step of a chain:
compiling and executing through SQLAlchemy's layers costs more there than the database does
(docs/decisions/0003).

Guards are in the statements: a node delta names the state, attempt and generation it expects,
and the writer compares the number of rows; a lane write names owner and epoch.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")

#: name -> text. Grouped as the life of a run goes.
SQL: dict[str, str] = {
    # -- lanes ---------------------------------------------------------------------------
    "lane_insert": """INSERT INTO flowq_lane (app, kind, owner, epoch, expires_at, liveness)
        VALUES (:app, :kind, :owner, 1, :expires_at, :liveness) RETURNING id""",
    "lane_held": "SELECT 1 FROM flowq_lane WHERE id = :id AND owner = :owner AND epoch = :epoch",
    "lane_take": """UPDATE flowq_lane SET owner = :owner, epoch = epoch + 1
        WHERE id = :id AND epoch = :epoch""",
    "lane_get": "SELECT id, app, kind, owner, epoch, liveness FROM flowq_lane WHERE id = :id",
    "lane_list": "SELECT id, app, kind, owner, epoch, liveness FROM flowq_lane ORDER BY id",
    "lane_delete_idle": """DELETE FROM flowq_lane WHERE id = :id
        AND NOT EXISTS (SELECT 1 FROM flowq_run WHERE flowq_run.lane_id = flowq_lane.id
            AND flowq_run.state IN ('RUNNING', 'PAUSED'))""",
    "lane_leases": """SELECT id, owner, epoch, expires_at FROM flowq_lane
        WHERE kind = 'fleet' ORDER BY id""",
    "lane_claim": """UPDATE flowq_lane
        SET owner = :owner, epoch = epoch + 1, expires_at = :expires_at
        WHERE id = :id AND epoch = :epoch AND owner = :before""",
    "lane_renew": """UPDATE flowq_lane SET expires_at = :expires_at
        WHERE id = :id AND owner = :owner AND epoch = :epoch""",
    "lane_release": """UPDATE flowq_lane SET owner = '', expires_at = 0
        WHERE id = :id AND owner = :owner AND epoch = :epoch""",
    "lanes_with_news": "SELECT DISTINCT lane_id FROM flowq_inbox WHERE kind <> 'update'",
    # -- processes -----------------------------------------------------------------------
    "meta_get": "SELECT value FROM flowq_meta WHERE key = :key",
    "meta_put": """INSERT INTO flowq_meta (key, value) VALUES (:key, :value)
        ON CONFLICT (key) DO NOTHING""",
    "member_put": """INSERT INTO flowq_worker (id, name, host, pid, queues, slots, expires_at,
            state, kind, held)
        VALUES (:id, :name, :host, :pid, :queues, :slots, :expires_at, :state, :kind, :held)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, queues = excluded.queues,
            slots = excluded.slots, expires_at = excluded.expires_at, state = excluded.state,
            held = excluded.held""",
    "member_list": """SELECT id, name, host, pid, queues, slots, expires_at, state, kind, held
        FROM flowq_worker ORDER BY id""",
    "member_delete": "DELETE FROM flowq_worker WHERE id = :id",
    "member_prune": "DELETE FROM flowq_worker WHERE expires_at < :before",
    "queue_insert": """INSERT INTO flowq_queue (lane_id, name) VALUES (:lane_id, :name)
        ON CONFLICT (lane_id, name) DO NOTHING""",
    "queue_list": "SELECT id, name FROM flowq_queue WHERE lane_id = :lane_id",
    # -- submission ----------------------------------------------------------------------
    "run_insert": """INSERT INTO flowq_run (uid, lane_id, app, name, target, title, state,
            priority, node_count, open_count, result_nodes, digest, idempotency_key,
            submitted_at, started_at, parent_run, parent_node, rerun_of, to_backend, code_hash)
        VALUES (:uid, :lane_id, :app, :name, :target, :title, 'RUNNING', :priority, :node_count,
            :open_count, :result_nodes, :digest, :idempotency_key, :submitted_at, :started_at,
            :parent_run, :parent_node, :rerun_of, :to_backend, :code_hash)
        ON CONFLICT DO NOTHING RETURNING id""",
    "run_insert_as": """INSERT INTO flowq_run (id, uid, lane_id, app, name, target, title, state,
            priority, node_count, open_count, result_nodes, digest, idempotency_key,
            submitted_at, started_at, parent_run, parent_node, rerun_of, to_backend, code_hash)
        VALUES (:id, :uid, :lane_id, :app, :name, :target, :title, 'RUNNING', :priority,
            :node_count, :open_count, :result_nodes, :digest, :idempotency_key, :submitted_at,
            :started_at, :parent_run, :parent_node, :rerun_of, :to_backend, :code_hash)""",
    "run_ids": """SELECT nextval(pg_get_serial_sequence('flowq_run', 'id'))
        FROM generate_series(1, :count)""",
    "run_by_key": "SELECT id, uid, digest FROM flowq_run WHERE idempotency_key = :key",
    "tag_insert": "INSERT INTO flowq_tag (run_id, key, value) VALUES (:run_id, :key, :value)",
    "spec_insert": """INSERT INTO flowq_spec (run_id, no, task, queue, body)
        VALUES (:run_id, :no, :task, :queue, :body)""",
    "node_insert": """INSERT INTO flowq_node (run_id, idx, spec_no, queue_id, priority, kind,
            need, state, unmet, eta, expires, name, path, args, retries)
        VALUES (:run_id, :idx, :spec_no, :queue_id, :priority, :kind, :need, :state, :unmet,
            :eta, :expires, :name, :path, :args, :retries)""",
    "node_insert_begun": """INSERT INTO flowq_node (run_id, idx, spec_no, queue_id, priority, kind,
            need, state, unmet, eta, expires, name, path, args, retries, attempt, hits, cause,
            outbox_id)
        VALUES (:run_id, :idx, :spec_no, :queue_id, :priority, :kind, :need, :state, :unmet,
            :eta, :expires, :name, :path, :args, :retries, :attempt, :hits, :cause, :outbox_id)""",
    "edge_insert": """INSERT INTO flowq_edge (run_id, child, slot, parent, on_end, bind, path)
        VALUES (:run_id, :child, :slot, :parent, :on_end, :bind, :path)""",
    "alias_insert": """INSERT INTO flowq_alias (id, run_id, idx) VALUES (:id, :run_id, :idx)
        ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id, idx = excluded.idx""",
    "inbox_insert": """INSERT INTO flowq_inbox (lane_id, run_id, kind, body)
        VALUES (:lane_id, :run_id, :kind, :body)""",
    # -- advancing -----------------------------------------------------------------------
    "inbox_take": """SELECT id, run_id, kind, body FROM flowq_inbox
        WHERE lane_id = :lane_id AND kind <> 'update' ORDER BY id LIMIT :limit""",
    "inbox_delete": "DELETE FROM flowq_inbox WHERE id = :id",
    "node_delta": """UPDATE flowq_node SET state = :state, attempt = :attempt,
            retries = :retries, crashes = :crashes, unmet = unmet - :unmet, hits = hits + :hits,
            cause = :cause, outbox_id = :outbox_id, kind = :kind, need = :need
        WHERE run_id = :run_id AND idx = :idx AND state = :before_state
            AND attempt = :before_attempt AND generation = :generation""",
    "node_reopen": """UPDATE flowq_node SET state = 'PENDING', generation = :generation,
            retries = 0, crashes = 0, unmet = :unmet, hits = :hits, cause = -1, outbox_id = 0
        WHERE run_id = :run_id AND idx = :idx AND state = :before_state
            AND attempt = :before_attempt AND generation = :before_generation""",
    "edge_unbind": "UPDATE flowq_edge SET bind = 0 WHERE run_id = :run_id AND child = :child",
    "node_args": "UPDATE flowq_node SET args = :args WHERE run_id = :run_id AND idx = :idx",
    "node_meta": "UPDATE flowq_node SET meta = :meta WHERE run_id = :run_id AND idx = :idx",
    "result_insert": """INSERT INTO flowq_result (run_id, idx, generation, frame, size)
        VALUES (:run_id, :idx, :generation, :frame, :size)""",
    "result_delete": "DELETE FROM flowq_result WHERE run_id = :run_id AND idx = :idx",
    "transition_insert": """INSERT INTO flowq_transition (run_id, seq, idx, generation, attempt,
            before, after, cause, at, began_at, ended_at, worker_id, detail)
        VALUES (:run_id, :seq, :idx, :generation, :attempt, :before, :after, :cause, :at,
            :began_at, :ended_at, :worker_id, :detail)""",
    "run_delta": """UPDATE flowq_run SET version = version + 1, state = :state,
            open_count = :open_count, node_count = :node_count, generation = :generation,
            started_at = COALESCE(started_at, :started_at), finished_at = :finished_at
        WHERE id = :id AND lane_id = :lane_id AND state = :before_state""",
    "run_step": """UPDATE flowq_run SET version = version + 1, open_count = :open_count,
            node_count = :node_count, started_at = COALESCE(started_at, :started_at)
        WHERE id = :id AND lane_id = :lane_id AND state = :before_state""",
    "outbox_insert": """INSERT INTO flowq_outbox (lane_id, id, queue, priority, items, remaining,
            created_at) VALUES (:lane_id, :id, :queue, :priority, :items, :remaining, :at)""",
    "outbox_left": """UPDATE flowq_outbox SET remaining = :remaining
        WHERE lane_id = :lane_id AND id = :id""",
    "outbox_rest": """UPDATE flowq_outbox SET items = :items, remaining = :remaining
        WHERE lane_id = :lane_id AND id = :id""",
    "outbox_delete": "DELETE FROM flowq_outbox WHERE lane_id = :lane_id AND id = :id",
    "outbox_settle": """UPDATE flowq_outbox SET settled_at = :at
        WHERE lane_id = :lane_id AND id = :id""",
    "outbox_list": """SELECT id, queue, priority, items, remaining, settled_at FROM flowq_outbox
        WHERE lane_id = :lane_id ORDER BY id""",
    "timer_set": """INSERT INTO flowq_timer (run_id, idx, kind, lane_id, due_at)
        VALUES (:run_id, :idx, :kind, :lane_id, :due_at)
        ON CONFLICT (run_id, idx, kind) DO UPDATE SET due_at = excluded.due_at,
            lane_id = excluded.lane_id""",
    "timer_delete": "DELETE FROM flowq_timer WHERE run_id = :run_id AND idx = :idx",
    "timer_done": """DELETE FROM flowq_timer
        WHERE run_id = :run_id AND idx = :idx AND kind = :kind""",
    "timer_delete_run": "DELETE FROM flowq_timer WHERE run_id = :run_id",
    "timer_due": """SELECT run_id, idx, kind FROM flowq_timer
        WHERE lane_id = :lane_id AND due_at <= :now ORDER BY due_at LIMIT :limit""",
    "timer_next": "SELECT MIN(due_at) FROM flowq_timer WHERE lane_id = :lane_id",
    "payload_insert": """INSERT INTO flowq_payload (hash, bytes, created_at)
        VALUES (:hash, :bytes, :created_at) ON CONFLICT (hash) DO NOTHING""",
    "payload_get": "SELECT bytes FROM flowq_payload WHERE hash = :hash",
    "log_insert": """INSERT INTO flowq_log (run_id, idx, attempt, seq, at, stream, text)
        VALUES (:run_id, :idx, :attempt, :seq, :at, :stream, :text)
        ON CONFLICT (run_id, idx, attempt, seq) DO NOTHING""",
    # -- views ---------------------------------------------------------------------------
    "run_head": """SELECT id, uid, lane_id, state, generation, node_count, open_count,
            result_nodes, started_at, to_backend, name, priority
        FROM flowq_run WHERE id = :id""",
    "view_nodes": """SELECT idx, spec_no, queue_id, priority, kind, need, state, generation,
            attempt, retries, crashes, unmet, hits, cause, outbox_id, eta, expires
        FROM flowq_node WHERE run_id = :run_id ORDER BY idx""",
    "view_edges": """SELECT parent, child, slot, on_end, bind FROM flowq_edge
        WHERE run_id = :run_id ORDER BY child, slot""",
    "view_specs": "SELECT no, body FROM flowq_spec WHERE run_id = :run_id ORDER BY no",
    "view_deadlines": """SELECT idx, due_at FROM flowq_timer
        WHERE run_id = :run_id AND kind = 'expires'""",
    "view_seq": "SELECT MAX(seq) FROM flowq_transition WHERE run_id = :run_id",
    "edges_of": """SELECT parent, child, slot, on_end, bind FROM flowq_edge
        WHERE run_id = :run_id AND (child = :idx OR parent = :idx_again)
        ORDER BY child, slot""",
    "node_state": "SELECT state FROM flowq_node WHERE run_id = :run_id AND idx = :idx",
    "node_ended": """SELECT at FROM flowq_transition WHERE run_id = :run_id AND idx = :idx
        ORDER BY seq DESC LIMIT 1""",
    "node_by_uid": """SELECT r.id FROM flowq_run AS r JOIN flowq_node AS n
        ON n.run_id = r.id AND n.idx = :idx WHERE r.uid = :uid""",
    "node_outcome": """SELECT n.kind, n.state, n.cause, n.meta, r.uid, s.task, f.frame,
            (SELECT t.at FROM flowq_transition AS t WHERE t.run_id = n.run_id AND t.idx = n.idx
                ORDER BY t.seq DESC LIMIT 1)
        FROM flowq_node AS n JOIN flowq_run AS r ON r.id = n.run_id
        LEFT JOIN flowq_spec AS s ON s.run_id = n.run_id AND s.no = n.spec_no
        LEFT JOIN flowq_result AS f ON f.run_id = n.run_id AND f.idx = n.idx
        WHERE n.run_id = :run_id AND n.idx = :idx""",
    "spec_task": "SELECT task FROM flowq_spec WHERE run_id = :run_id AND no = :no",
    "aliases": "SELECT id FROM flowq_alias WHERE run_id = :run_id",
    "node_need": "SELECT need FROM flowq_node WHERE run_id = :run_id AND idx = :idx",
    "node_place": "SELECT name, path FROM flowq_node WHERE run_id = :run_id AND idx = :idx",
    "edge_path": """SELECT slot, path FROM flowq_edge
        WHERE run_id = :run_id AND child = :child AND bind = 3""",
    "node_args_get": """SELECT idx, args FROM flowq_node
        WHERE run_id = :run_id AND idx BETWEEN :low AND :high ORDER BY idx LIMIT :limit""",
    "node_spec": """SELECT s.body FROM flowq_node n JOIN flowq_spec s
        ON s.run_id = n.run_id AND s.no = n.spec_no WHERE n.run_id = :run_id AND n.idx = :idx""",
    "node_arg": "SELECT args FROM flowq_node WHERE run_id = :run_id AND idx = :idx",
    "result_get": "SELECT frame FROM flowq_result WHERE run_id = :run_id AND idx = :idx",
    "result_items": """SELECT e.parent, e.slot, r.frame, n.state, n.kind FROM flowq_edge e
        JOIN flowq_node n ON n.run_id = e.run_id AND n.idx = e.parent
        LEFT JOIN flowq_result r ON r.run_id = e.run_id AND r.idx = e.parent
        WHERE e.run_id = :run_id AND e.child = :child AND e.bind = 2 ORDER BY e.slot""",
    "pass_tail": """SELECT parent FROM flowq_edge
        WHERE run_id = :run_id AND child = :child AND on_end = 2 ORDER BY slot DESC LIMIT 1""",
    "error_get": """SELECT detail, cause, after FROM flowq_transition
        WHERE run_id = :run_id AND idx = :idx AND detail IS NOT NULL ORDER BY seq DESC LIMIT 1""",
    "ready_top": """SELECT MAX(priority) FROM flowq_node
        WHERE state = 'READY' AND queue_id = :queue_id AND priority < :below""",
    "ready_page": """SELECT run_id, idx FROM flowq_node
        WHERE state = 'READY' AND queue_id = :queue_id AND priority = :priority
            AND run_id > :run_id ORDER BY run_id, idx LIMIT :limit""",
    # -- taking over ---------------------------------------------------------------------
    "run_live": """SELECT id FROM flowq_run
        WHERE lane_id = :lane_id AND state IN ('RUNNING', 'PAUSED') ORDER BY id""",
    "run_move": """UPDATE flowq_run SET lane_id = :lane_id
        WHERE id = :id AND lane_id = :before""",
    "timer_move": "UPDATE flowq_timer SET lane_id = :lane_id WHERE run_id = :run_id",
    "inbox_move": "UPDATE flowq_inbox SET lane_id = :lane_id WHERE run_id = :run_id",
    "node_queue": """UPDATE flowq_node SET queue_id = :queue_id WHERE run_id = :run_id
        AND state <> 'SUCCESS' AND spec_no IN (SELECT no FROM flowq_spec
            WHERE flowq_spec.run_id = flowq_node.run_id AND queue = :queue)""",
    "spec_queues": "SELECT DISTINCT queue FROM flowq_spec WHERE run_id = :run_id",
    "spec_tasks": "SELECT DISTINCT task FROM flowq_spec WHERE run_id = :run_id",
    # -- reading for people --------------------------------------------------------------
    "run_columns": """SELECT id, uid, app, name, target, title, state, priority, generation,
            node_count, open_count, result_nodes, submitted_at, started_at, finished_at,
            rerun_of, lane_id, version, code_hash FROM flowq_run""",
    "tags": "SELECT key, value FROM flowq_tag WHERE run_id = :run_id",
    "nodes": """SELECT n.idx, n.name, n.path, n.kind, s.task, n.state, n.generation, n.attempt,
            n.retries, n.crashes, n.unmet, n.cause, s.queue, n.meta, n.need
        FROM flowq_node n
        LEFT JOIN flowq_spec s ON s.run_id = n.run_id AND s.no = n.spec_no
        WHERE n.run_id = :run_id ORDER BY n.idx""",
    "times": """SELECT idx, MAX(began_at), MAX(ended_at) FROM flowq_transition
        WHERE run_id = :run_id GROUP BY idx""",
    "details": """SELECT idx, detail, after FROM flowq_transition
        WHERE run_id = :run_id AND detail IS NOT NULL ORDER BY seq""",
    "edges": """SELECT parent, child, slot, on_end, bind FROM flowq_edge
        WHERE run_id = :run_id ORDER BY child, slot""",
    "counts": """SELECT state, COUNT(*) FROM flowq_node WHERE run_id = :run_id GROUP BY state""",
    "lean_nodes": """SELECT n.idx, n.name, n.path, n.kind, n.state, s.task FROM flowq_node n
        LEFT JOIN flowq_spec s ON s.run_id = n.run_id AND s.no = n.spec_no
        WHERE n.run_id = :run_id AND n.idx >= :first ORDER BY n.idx""",
    "logs_after": """SELECT idx, attempt, seq, at, stream, text FROM flowq_log
        WHERE run_id = :run_id AND seq > :after ORDER BY seq LIMIT :limit""",
    "logs_last": "SELECT MAX(seq) FROM flowq_log WHERE run_id = :run_id",
    "slowest": """SELECT n.name, t.ended_at - t.began_at AS took FROM flowq_transition t
        JOIN flowq_node n ON n.run_id = t.run_id AND n.idx = t.idx
        WHERE t.run_id = :run_id AND t.began_at > 0 AND t.ended_at > 0 AND n.kind = 0
        ORDER BY took DESC LIMIT :limit""",
    "failed_nodes": """SELECT idx, name, attempt FROM flowq_node
        WHERE run_id = :run_id AND state = 'FAILURE' AND kind = 0 ORDER BY idx LIMIT :limit""",
    "skipped_by": """SELECT cause, COUNT(*) FROM flowq_node WHERE run_id = :run_id
        AND state = 'SKIPPED' AND kind = 0 AND cause >= 0 AND cause <> idx GROUP BY cause""",
    "broken_joins": """SELECT idx, cause FROM flowq_node WHERE run_id = :run_id
        AND state = 'FAILURE' AND kind <> 0 AND cause >= 0 AND cause <> idx""",
    "task_counts": """SELECT state, COUNT(*) FROM flowq_node
        WHERE run_id = :run_id AND kind = 0 GROUP BY state""",
    "transitions": """SELECT seq, idx, generation, attempt, before, after, cause, at, began_at,
            ended_at, detail FROM flowq_transition
        WHERE run_id = :run_id AND seq > :after ORDER BY seq LIMIT :limit""",
    "logs": """SELECT idx, attempt, seq, at, stream, text FROM flowq_log
        WHERE run_id = :run_id ORDER BY at, idx, attempt, seq""",
    "alias_get": "SELECT run_id, idx FROM flowq_alias WHERE id = :id",
    "node_by_name": "SELECT idx FROM flowq_node WHERE run_id = :run_id AND name = :name",
    "node_one": """SELECT kind, state, cause, attempt, generation, meta, spec_no FROM flowq_node
        WHERE run_id = :run_id AND idx = :idx""",
    "run_id_by_uid": "SELECT id FROM flowq_run WHERE uid = :uid",
    "run_state": "SELECT state FROM flowq_run WHERE id = :id",
    # -- retention -----------------------------------------------------------------------
    "prune_pick": """SELECT id FROM flowq_run
        WHERE state IN ('SUCCESS', 'FAILURE', 'CANCELLED') AND finished_at < :before
        ORDER BY id LIMIT :limit""",
    "prune_due": """SELECT 1 FROM flowq_run
        WHERE id = (SELECT MIN(id) FROM flowq_run) AND submitted_at < :before""",
    "queue_orphans": """DELETE FROM flowq_queue WHERE lane_id NOT IN
            (SELECT id FROM flowq_lane UNION ALL SELECT lane_id FROM flowq_run)""",
    "orphans": """DELETE FROM flowq_payload WHERE created_at < :before AND hash NOT IN (
            SELECT substr(args, 2) FROM flowq_node
                WHERE args IS NOT NULL AND substr(args, 1, 1) = :mark
            UNION ALL SELECT substr(frame, 2) FROM flowq_result
                WHERE substr(frame, 1, 1) = :mark)""",
    # -- checking ------------------------------------------------------------------------
    "check_open": """SELECT r.uid, r.open_count FROM flowq_run r WHERE r.open_count <> (
            SELECT COUNT(*) FROM flowq_node n WHERE n.run_id = r.id
                AND n.state NOT IN ('SUCCESS', 'FAILURE', 'SKIPPED', 'REVOKED'))""",
    "check_ended": """SELECT r.uid, COUNT(*) FROM flowq_run r
        JOIN flowq_node n ON n.run_id = r.id
            AND n.state NOT IN ('SUCCESS', 'FAILURE', 'SKIPPED', 'REVOKED')
        WHERE r.state IN ('SUCCESS', 'FAILURE', 'CANCELLED') GROUP BY r.uid""",
    "check_unmet": """SELECT r.uid, COUNT(*) FROM flowq_run r
        JOIN flowq_node n ON n.run_id = r.id AND n.state = 'PENDING'
        WHERE r.state IN ('RUNNING', 'PAUSED') AND n.unmet <> (
            SELECT COUNT(*) FROM flowq_edge e
            JOIN flowq_node p ON p.run_id = e.run_id AND p.idx = e.parent
            WHERE e.run_id = n.run_id AND e.child = n.idx AND (n.kind <> 2 OR e.on_end = 2)
                AND p.state NOT IN ('SUCCESS', 'FAILURE', 'SKIPPED', 'REVOKED'))
        GROUP BY r.uid""",
    "check_results": """SELECT r.uid, COUNT(*) FROM flowq_run r
        JOIN flowq_result t ON t.run_id = r.id
        JOIN flowq_node n ON n.run_id = t.run_id AND n.idx = t.idx AND n.state <> 'SUCCESS'
        GROUP BY r.uid""",
    # -- rerun: a new run from the rows of another ----------------------------------------
    "rerun_insert": """INSERT INTO flowq_run (uid, lane_id, app, name, target, title, state,
            priority, node_count, open_count, result_nodes, submitted_at, rerun_of, code_hash)
        SELECT :uid, :lane_id, app, name, target, title, 'RUNNING', priority, :node_count,
            :open_count, result_nodes, :submitted_at, id, :code_hash
        FROM flowq_run WHERE id = :old RETURNING id""",
    "copy_tags": """INSERT INTO flowq_tag (run_id, key, value)
        SELECT :new, key, value FROM flowq_tag WHERE run_id = :old""",
    "copy_specs": """INSERT INTO flowq_spec (run_id, no, task, queue, body)
        SELECT :new, no, task, queue, body FROM flowq_spec s WHERE s.run_id = :old
            AND EXISTS (SELECT 1 FROM flowq_node n WHERE n.run_id = s.run_id
                AND n.spec_no = s.no AND n.idx < :count)""",
    "copy_edges": """INSERT INTO flowq_edge (run_id, child, slot, parent, on_end, bind, path)
        SELECT :new, child, slot, parent, on_end, bind, path FROM flowq_edge
        WHERE run_id = :old AND child < :count AND parent < :below""",
    "copy_nodes": """INSERT INTO flowq_node (run_id, idx, spec_no, queue_id, priority, kind,
            need, state, unmet, eta, expires, name, path, args)
        SELECT :new, idx, spec_no, queue_id, priority,
            CASE WHEN kind = 2 THEN 0 ELSE kind END, need, 'PENDING', 0,
            eta, expires, name, path, args FROM flowq_node
        WHERE run_id = :old AND idx < :count""",
    "copy_source": """SELECT idx, path, kind, need, state FROM flowq_node
        WHERE run_id = :run_id ORDER BY idx""",
    "copy_result": """INSERT INTO flowq_result (run_id, idx, generation, frame, size)
        SELECT :new, idx, 0, frame, size FROM flowq_result WHERE run_id = :old AND idx = :idx""",
    "node_set": """UPDATE flowq_node SET state = :state, unmet = :unmet, hits = :hits,
            need = :need WHERE run_id = :run_id AND idx = :idx""",
    "result_put": """INSERT INTO flowq_result (run_id, idx, generation, frame, size)
        VALUES (:run_id, :idx, 0, :frame, :size) ON CONFLICT (run_id, idx) DO NOTHING""",
}

#: Tables whose rows belong to one run, in the order in which pruning empties them.
RUN_TABLES = ("log", "timer", "inbox", "alias", "result", "transition", "edge", "node", "spec")
for _name in (*RUN_TABLES, "tag"):
    SQL[f"prune_{_name}"] = f"DELETE FROM flowq_{_name} WHERE run_id = :run_id"
for _name, _column in (
    *(("log", "idx"), ("result", "idx"), ("timer", "idx"), ("edge", "child"), ("node", "idx")),
    ("transition", "seq"),
):
    SQL[f"page_{_name}"] = (
        f"DELETE FROM flowq_{_name} WHERE run_id = :run_id AND {_column} BETWEEN :low AND :high"
    )
for _name in ("node", "edge", "result"):
    SQL[
        f"check_lost_{_name}"
    ] = f"""SELECT COUNT(*) FROM (SELECT DISTINCT run_id FROM flowq_{_name})
        AS rows_of WHERE NOT EXISTS (SELECT 1 FROM flowq_run WHERE id = rows_of.run_id)"""
SQL["prune_run"] = "DELETE FROM flowq_run WHERE id = :run_id"


def prepare(text: str, mark: str) -> str:
    """Turn ``:name`` parameters into a driver's positional mark (``?`` or ``%s``)."""
    return _PARAMETER.sub(mark, " ".join(text.split()))


class Statements(SimpleNamespace):
    """All statements as attributes, prepared for one driver."""

    def __init__(self, mark: str) -> None:
        super().__init__(**{name: prepare(text, mark) for name, text in SQL.items()})

    def __getattr__(self, name: str) -> str:
        raise AttributeError(f"no statement {name!r}; all are in queries.SQL")
