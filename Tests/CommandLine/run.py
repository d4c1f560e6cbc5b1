#!/usr/bin/env python3
"""Tests of the command line: each command on a real gateway with fake upstreams.

    Tests/CommandLine/run.py --gateway .build/debug/webllm-gateway [TEST...]
"""
import argparse
import datetime
import json
import pathlib
import signal
import subprocess
import threading
import unittest
import urllib.request

from setting import Setting  # first: it tells where the modules are that others need
from life import free_ports
from scripts import Scripts  # noqa: F401, its tests run with these
from terminal import Terminal

gateway = None  # the Setting


class WithoutAGateway(unittest.TestCase):
    def test_check_tells_each_value_and_its_source(self):
        out, _ = gateway.run("check", "--config", gateway.config)
        self.assertRegex(out, r"(?m)^server\.drain_timeout +1s +file$")
        values = {entry["key"]: entry for entry in gateway.json("check", "--config", gateway.config)}
        self.assertEqual(values["server.drain_timeout"], {
            "key": "server.drain_timeout", "value": "1s", "source": "file"})

    def test_a_wrong_configuration_is_78(self):
        wrong = gateway.path("wrong.conf")
        wrong.write_text('[server]\nlissen = []\n')
        for command in ["check", "serve"]:
            _, errors = gateway.run(command, "--config", wrong, code=78)
            self.assertIn("server.lissen", errors)
        gateway.run("check", "--config", gateway.path("missing.conf"), "--json", code=78)

    def test_a_link_to_nothing_is_no_default(self):
        folder = gateway.path("linked")
        folder.mkdir()
        folder.joinpath("gateway.conf").symlink_to("/nonexistent")
        for command in ["check", "serve"]:
            done = subprocess.run([gateway.binary, command], cwd=folder, capture_output=True, text=True, timeout=30)
            self.assertEqual((done.returncode, done.stderr), (78, "webllm-gateway: gateway.conf: no such file\n"))

    def test_a_descriptor_that_is_no_socket_is_told(self):
        script = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3</dev/null'
        done = subprocess.run(
            ["sh", "-c", script, "sh", gateway.binary, "serve", "--config", gateway.config], env=gateway.environment,
            capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.splitlines()[-1], "webllm-gateway: cannot listen on the socket that was handed over "
                         "as descriptor 3: it is no socket")

    def test_a_warning_is_a_line_of_the_log_and_told_at_a_reload_too(self):
        port, admin = free_ports(2)
        config = gateway.path("open.conf")
        closed = (f'[server]\nlisten = ["127.0.0.1:{port}"]\n[history]\npath = ":memory:"\n'
                  '[[upstream]]\nname = "u"\nkind = "query"\nurl = "http://127.0.0.1:9/"\n'
                  f'[admin]\nlisten = ["0.0.0.0:{admin}"]\n')
        config.write_text(closed)
        process = subprocess.Popen(
            [gateway.binary, "serve", "--config", config], stderr=subprocess.PIPE, text=True, env=gateway.environment)

        def until(message):
            for line in process.stderr:
                line = json.loads(line)
                if line["msg"] == message:
                    return line
            self.fail(f"the gateway ended without {message}")

        try:
            line = until("configuration")
            self.assertEqual(line["level"], "warning")
            self.assertIn("without a token; set admin.token_hash", line["reason"])
            until("listening for operators")
            config.write_text(closed + 'token_hash = "sha256:' + "0" * 64 + '"\n')
            process.send_signal(signal.SIGHUP)
            until("configuration reloaded")
            config.write_text(closed)
            process.send_signal(signal.SIGHUP)
            until("configuration reloaded")
            self.assertIn("without a token", until("configuration")["reason"])
        finally:
            process.terminate()
            process.communicate(timeout=20)

    def test_wrong_usage_is_64(self):
        for arguments in [
            ["nonsense"], ["drain"], ["status", "--nonsense"], ["history", "--limit", "0"], ["history", "--limit", "501"],
            ["history", "1", "--errors"], ["history", "--since", "yesterday"], ["bench", "--connections", "0"],
            ["bench", "--requests", "0"], ["bench", "--duration", "2 s"], ["bench", "--duration", "2h"], ["cancel"],
            ["chat", "x", "--gateway", "not an address"], ["bench", "--max-tokens", "0"], ["bench", "--prompt", " "],
            ["history", ""],
        ]:
            with self.subTest(arguments=arguments):
                gateway.run(*arguments, code=64)

    def test_a_time_too_far_back_is_told_the_limit(self):
        _, errors = gateway.run("history", "--since", "99999999d", code=64)
        self.assertIn("at most 100000d", errors)

    def test_listeners_on_unix_sockets_are_asked_too(self):
        out, _ = gateway.run("status", "--admin", gateway.admin_socket)
        self.assertRegex(out, r"\nfirst +ollama ")
        out, _ = gateway.run("chat", "x", "--gateway", gateway.socket)
        self.assertEqual(out, "Hello x\n")
        _, errors = gateway.run("status", "--admin", gateway.socket, code=1)
        self.assertIn(f"{gateway.socket} is not the admin listener of a gateway", errors)
        _, errors = gateway.run("status", "--admin", "unix:/nowhere.sock", code=69)
        self.assertIn("no gateway answers at unix:/nowhere.sock (connect)", errors)
        _, errors = gateway.run("status", "--admin", "unix:", code=64)
        self.assertIn("unix:/run/gateway.sock", errors)

    def test_the_version_is_the_gateways(self):
        self.assertEqual(gateway.run("--version")[0], gateway.json("status")["version"] + "\n")

    def test_no_gateway_is_69(self):
        nowhere = f"127.0.0.1:{gateway.closed}"
        for arguments in [
            ["status"], ["status", "--watch"], ["status", "--json"], ["running"], ["history"], ["history", "1"], ["explain"],
            ["cancel", "1"], ["drain", "first"], ["enable", "first"], ["disable", "first"], ["reload"],
        ]:
            with self.subTest(arguments=arguments):
                out, errors = gateway.run(*arguments, "--admin", nowhere, code=69)
                self.assertEqual((out, errors), ("", f"webllm-gateway: no gateway answers at http://{nowhere} (connect)\n"))
        gateway.run("chat", "x", "--gateway", nowhere, code=69)
        gateway.run("bench", "--gateway", nowhere, code=69)

    def test_help_documents_the_exit_codes(self):
        out, _ = gateway.run("--help")
        for code in ["0", "1", "64", "69", "77", "78", "130"]:
            self.assertRegex(out, rf"(?m)^  {code} +\w")

    def test_each_token_is_new_and_has_its_line(self):
        out, _ = gateway.run("token")
        self.assertRegex(out, r'(?m)^[0-9a-f]{64}$')
        self.assertRegex(out, r'(?m)^token_hash = "sha256:[0-9a-f]{64}"$')
        self.assertNotEqual(gateway.json("token"), gateway.json("token"))

    def test_completion_scripts(self):
        for shell in ["bash", "zsh", "fish"]:
            script, _ = gateway.run("--generate-completion-script", shell)
            self.assertIn("webllm-gateway", script)
            if shell == "bash":
                subprocess.run(["bash", "-n"], input=script, text=True, check=True)


class Operating(unittest.TestCase):
    def test_status(self):
        gateway.run("chat", "x")
        out, _ = gateway.run("status")
        self.assertRegex(out, r"^webllm-gateway \S+: (healthy|degraded), up \d+ s, policy priority, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n")
        self.assertRegex(out, r"\d+ running, \d+ connections?, \d+ retries left, history ok with \d+ requests?\n")
        self.assertRegex(out, r"\nfirst +ollama +ok +0/4 +0 +\d+(\.\d+)? ms +\S+ +m:latest +\S")
        status = gateway.json("status")
        self.assertEqual([upstream["name"] for upstream in status["upstreams"]], ["first", "second"])
        self.assertIn("alerts", status)

    def test_alerts_are_told_in_words(self):
        gateway.run("disable", "second")
        try:
            out, _ = gateway.run("status")
            self.assertIn("\nwarning: second is disabled by an operator\n", out)
            self.assertRegex(out, r"\nsecond +ollama +disabled ")
            alerts = {alert["text"]: alert["upstream"] for alert in gateway.json("status")["alerts"]}
            self.assertEqual(alerts["second is disabled by an operator"], "second")
        finally:
            gateway.run("enable", "second")

    def test_upstreams_are_drained_and_enabled(self):
        self.assertEqual(gateway.run("drain", "first")[0], "first: draining\n")
        try:
            out, _ = gateway.run("explain")
            self.assertTrue(out.startswith("m, policy priority: asks second first\n"), out)
            self.assertRegex(out, r"\nfirst +m +draining ")
            plan = gateway.json("explain", "--model", "m")
            skipped = {candidate["upstream"]: candidate.get("skipped") for candidate in plan["candidates"]}
            self.assertEqual(skipped, {"first": "draining", "second": None})
        finally:
            self.assertEqual(gateway.json("enable", "first"), {"upstream": "first", "mode": "enabled"})
        for verb in ["drain", "enable", "disable"]:
            _, errors = gateway.run(verb, "no such", code=1)
            self.assertEqual(errors, "webllm-gateway: No upstream is called no such\n")

    def test_another_listener_is_named(self):
        address = f"127.0.0.1:{gateway.port}"
        for arguments in [
            ["status"], ["status", "--json"], ["running"], ["history"], ["history", "1"], ["explain"], ["cancel", "1"],
            ["drain", "first"], ["reload"],
        ]:
            with self.subTest(arguments=arguments):
                out, errors = gateway.run(*arguments, "--admin", address, code=1)
                self.assertEqual(
                    (out, errors), ("", f"webllm-gateway: {address} is not the admin listener of a gateway\n"))
        address = f"127.0.0.1:{gateway.admin}"
        for arguments in [["chat", "x"], ["bench", "--requests", "1"]]:
            with self.subTest(arguments=arguments):
                _, errors = gateway.run(*arguments, "--gateway", address, code=1)
                self.assertIn(f"{address} is not the client listener of a gateway: The admin token", errors)

    def test_reload(self):
        try:
            gateway.config.write_text(gateway.text + "[nonsense]\n")
            _, errors = gateway.run("reload", code=78)
            self.assertIn("the old one stays", errors)
            gateway.config.write_text(gateway.text.replace('[server]\n', '[server]\ncurl_loops = 2\n'))
            self.assertEqual(gateway.run("reload")[0], "reloaded\nat the next start: server.curl_loops\n")
        finally:
            gateway.config.write_text(gateway.text)
            self.assertEqual(gateway.json("reload")["status"], "reloaded")

    def test_the_token(self):
        for environment in [{"WEBLLM_GATEWAY_ADMIN_TOKEN": ""}, {"WEBLLM_GATEWAY_ADMIN_TOKEN": "0" * 64}]:
            for command in [["status"], ["status", "--watch"], ["history"], ["reload", "--json"]]:
                _, errors = gateway.run(*command, code=77, **environment)
                self.assertIn("admin token is missing or wrong", errors)
        file = gateway.path("token")
        file.write_text(gateway.token + "\n")
        gateway.run("running", "--token-file", file, WEBLLM_GATEWAY_ADMIN_TOKEN="wrong")
        for content, fault in [(None, "cannot be read"), ("", "is empty"), ("\n", "is empty")]:
            file = gateway.path("missing" if content is None else "empty")
            if content is not None:
                file.write_text(content)
            _, errors = gateway.run("running", "--token-file", file, code=77)
            self.assertEqual(errors, f"webllm-gateway: {file} {fault}\n")
        gateway.run("chat", "x", WEBLLM_GATEWAY_ADMIN_TOKEN="")

    def test_completions_ask_the_gateway(self):
        def complete(command, *path):
            return gateway.run("---completion", command, "--", *path, "1", "0", "webllm-gateway", command)[0].split()
        self.assertEqual(complete("drain", "positional@0"), ["first", "second"])
        self.assertEqual(complete("chat", "--model"), ["m"])

    def test_log_lines_carry_the_journals_priorities(self):
        lines = gateway.log.read_text().rpartition("\n")[0].splitlines()
        levels = {"<6>": "info", "<4>": "warning", "<3>": "error"}
        for line in lines:
            self.assertEqual(levels[line[:3]], json.loads(line[3:])["level"])
        self.assertTrue(lines)


class History(unittest.TestCase):
    def setUp(self):
        gateway.run("chat", "x")
        gateway.second.prompts.clear()
        gateway.run("chat", "fail", code=1)
        self.assertEqual(gateway.second.prompts, ["fail"])

    def test_the_newest_are_first(self):
        out, _ = gateway.run("history")
        rows = out.splitlines()
        self.assertRegex(rows[0], "^ID +TIME ")
        self.assertRegex(rows[1], r"^\d+ +\S+ \S+ +upstreams failed +first>second +m +\S+ ms +- +0 +- +No model could answer$")
        self.assertRegex(rows[2], r"^\d+ +\S+ \S+ +ok +first +m +\S+ ms +\S+ ms +2 +\S+ +Hello x$")

    def test_filters(self):
        def ids(*filters):
            return [request["id"] for request in gateway.json("history", *filters)["requests"]]
        failed, answered = ids("--limit", "2")
        self.assertEqual(ids("--errors")[0], failed)
        self.assertNotIn(answered, ids("--errors", "--limit", "500"))
        self.assertEqual(ids("--upstream", "second")[0], failed)
        self.assertEqual(ids("--upstream", "first")[0], answered)
        self.assertEqual(ids("--model", "none"), [])
        self.assertEqual(ids("--model", "m", "--since", "1h")[:2], [failed, answered])
        self.assertEqual(ids("--since", "1ms"), [])
        now = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=2)))
        for time, expected in [(now + datetime.timedelta(hours=1), []), (now - datetime.timedelta(hours=1), [failed])]:
            self.assertEqual(ids("--since", time.isoformat(timespec="seconds"), "--limit", "1"), expected)

    def test_one_request_whole(self):
        failed = gateway.json("history", "--limit", "1")["requests"][0]
        out, _ = gateway.run("history", failed["id"])
        self.assertTrue(out.startswith(f"Request {failed['request_id']}\n"))
        self.assertIn("\nupstreams failed, status 502, ", out)
        self.assertIn("\nfirst was first in the configured order, and nothing spoke against it; it answered with status 500. "
                      "second was next by the policy priority; it answered with status 500.\n", out)
        for step in ["asks first", "first: status 500", "asks second", "second: status 500", "replied with status 502"]:
            self.assertRegex(out, rf"(?m)^\S+ ms +{step}$")
        self.assertRegex(out, r"\nLooked at for attempt 2\nUPSTREAM .*\nfirst +m +tried .*\nsecond +m +ok ")
        self.assertEqual(gateway.run("history", failed["request_id"])[0], out)
        self.assertEqual(gateway.json("history", failed["id"])["plan"]["attempts"][1]["upstream"], "second")

    def test_an_answered_request_whole(self):
        answered = gateway.json("history", "--limit", "2")["requests"][1]
        out, _ = gateway.run("history", answered["id"])
        self.assertRegex(out, r"\nok, status 200, \S+ ms, 2 tokens out")
        self.assertRegex(out, r"(?m)^\S+ ms +first token$")
        self.assertTrue(out.endswith("\nAnswer\nHello x\n"), out)

    def test_an_unknown_request_is_1(self):
        _, errors = gateway.run("history", "12345", code=1)
        self.assertEqual(errors, "webllm-gateway: The history has no request 12345\n")

    def test_a_long_reply_is_whole(self):
        gateway.run("bench", "--requests", "320", "--connections", "8", "--prompt", "\U0001d537" * 1000)
        out, _ = gateway.run("history", "--limit", "320", "--json")
        self.assertGreater(len(out.encode()), 256 << 10)
        self.assertEqual(json.loads(out)["count"], 320)


class Running(unittest.TestCase):
    def test_a_request_is_seen_and_cancelled(self):
        client = subprocess.Popen(
            [gateway.binary, "chat", "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, env=gateway.environment)
        generation = gateway.first.waiting.get(timeout=10)
        self.assertEqual(client.stdout.read(5), "first")
        out, _ = gateway.run("running")
        rows = out.splitlines()
        self.assertEqual(len(rows), 2, out)
        self.assertRegex(rows[1], r"^\d+ +\S+ m?s +generating +first +m +1 +yes +127\.0\.0\.1 +[0-9a-f-]{36}$")
        running = gateway.json("running")
        self.assertEqual(running["total"], 1)
        id = running["running"][0]["id"]
        self.assertEqual(gateway.run("cancel", id)[0], f"{id}: cancelled\n")
        self.assertTrue(generation.left.wait(10), "the upstream still generates")
        self.assertEqual(client.communicate(timeout=10), ("\n", "webllm-gateway: An operator ended this request\n"))
        self.assertEqual(client.returncode, 1)
        _, errors = gateway.run("cancel", id, code=1)
        self.assertEqual(errors, f"webllm-gateway: No request with the id {id} runs\n")
        for id in ["../x", "abc"]:
            _, errors = gateway.run("cancel", id, code=1)
            self.assertEqual(errors, f"webllm-gateway: No request with the id {id} runs\n")

    def test_a_request_id_cancels_all_that_runs_for_it(self):
        # A number that is no running request's own id.
        for id in ["4000000000", "two-prompts"]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{gateway.port}/webllm/api/infer/batch", json.dumps({"prompts": ["wait"] * 2}).encode(),
                {"Content-Type": "application/json", "X-Request-Id": id})
            client = threading.Thread(target=lambda request=request: urllib.request.urlopen(request, timeout=20).read())
            client.start()
            generations = [gateway.first.waiting.get(timeout=10) for _ in range(2)]
            self.assertEqual({request["request_id"] for request in gateway.json("running")["running"]}, {id})
            self.assertEqual(gateway.run("cancel", id)[0], f"{id}: cancelled\n")
            for generation in generations:
                self.assertTrue(generation.left.wait(10), "the upstream still generates")
            client.join(timeout=20)
            self.assertFalse(client.is_alive())


class Chat(unittest.TestCase):
    def test_the_prompt_comes_from_the_argument_or_standard_input(self):
        self.assertEqual(gateway.run("chat", "you")[0], "Hello you\n")
        self.assertEqual(gateway.run("chat", "-", stdin=b"there\n")[0], "Hello there\n")
        self.assertEqual(gateway.run("chat", stdin="über\n".encode())[0], "Hello über\n")
        gateway.run("chat", stdin=b"\xff", code=64)

    def test_standard_input_that_cannot_be_read_is_64(self):
        for redirection in ["</", "<&-"]:
            with self.subTest(redirection=redirection):
                done = subprocess.run(
                    ["sh", "-c", f'exec "$0" chat {redirection}', gateway.binary], capture_output=True, text=True,
                    timeout=30, env=gateway.environment)
                self.assertEqual((done.returncode, done.stdout), (64, ""))
                self.assertTrue(done.stderr.startswith("Error: Standard input cannot be read"), done.stderr)

    def test_json_is_the_streams_lines(self):
        lines = [json.loads(line) for line in gateway.run("chat", "you", "--json")[0].splitlines()]
        self.assertEqual([line["type"] for line in lines], ["token", "token", "done"])
        self.assertEqual(lines[2]["text"], "Hello you")

    def test_what_is_not_answered_is_1(self):
        out, errors = gateway.run("chat", "fail", code=1)
        self.assertEqual((out, errors), ("", "webllm-gateway: No model could answer\n"))
        gateway.run("chat", "fail", "--json", code=1)

    def test_the_gateways_own_message_is_no_answer(self):
        try:
            gateway.config.write_text(gateway.text.replace('fallback_message = ""', 'fallback_message = "Sorry"'))
            gateway.run("reload")
            told = "webllm-gateway: no model answered: the text is the gateway's own message\n"
            self.assertEqual(gateway.run("chat", "fail", code=1), ("Sorry\n", told))
            out, errors = gateway.run("chat", "fail", "--json", code=1)
            self.assertEqual((json.loads(out.splitlines()[-1])["text"], errors), ("Sorry", told))
        finally:
            gateway.config.write_text(gateway.text)
            gateway.run("reload")

    def test_model_output_does_not_steer_the_terminal(self):
        out, _ = gateway.run("chat", "hostile")  # which looks for such characters
        self.assertEqual(out, "\ufffd[2J\ufffd]0;title\ufffd\ufffdx\ufffd31m end\n")
        gateway.run("history", "--limit", "1")
        gateway.run("history", gateway.json("history", "--limit", "1")["requests"][0]["id"])

    def test_a_long_answer_is_whole(self):
        self.assertEqual(len(gateway.run("chat", "long")[0]), 400_001)

    def test_ctrl_c_stops_the_generation(self):
        terminal = Terminal(gateway.binary, "chat", "wait", env=gateway.environment)
        generation = gateway.first.waiting.get(timeout=10)
        terminal.read_until("first")
        terminal.press("\x03")
        self.assertEqual(terminal.end(), -signal.SIGINT)
        self.assertTrue(generation.left.wait(10), "the upstream still generates")

    def test_without_a_prompt_on_a_terminal(self):
        terminal = Terminal(gateway.binary, "chat", env=gateway.environment)
        self.assertEqual(terminal.end(), 64)

    def test_a_reader_that_leaves_ends_it(self):
        client = subprocess.Popen(
            [gateway.binary, "status", "--watch"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env=gateway.environment)
        client.stdout.readline()
        client.stdout.close()
        self.assertEqual(client.wait(timeout=10), -signal.SIGPIPE)


class OnATerminal(unittest.TestCase):
    def test_colours(self):
        terminal = Terminal(gateway.binary, "status", env=gateway.environment)
        self.assertEqual(terminal.end(), 0)
        health = self.health()
        colour = {"healthy": 32, "degraded": 31}[health]
        self.assertIn(f"\x1b[{colour}m{health}\x1b[0m", terminal.output)
        for plain in [{"NO_COLOR": "1"}, {"TERM": "dumb"}]:
            terminal = Terminal(gateway.binary, "status", env=gateway.environment | plain)
            self.assertEqual(terminal.end(), 0)
            self.assertIn(f": {health},", terminal.output)
            self.assertNotIn("\x1b", terminal.output)

    def health(self):
        """As the other tests have left it: those that had an upstream fail make it degraded."""
        hasTrouble = any("has failed" in alert["text"] for alert in gateway.json("status")["alerts"])
        return "degraded" if hasTrouble else "healthy"

    def test_watch_redraws_and_restores_the_terminal(self):
        terminal = Terminal(gateway.binary, "status", "--watch", env=gateway.environment)
        terminal.read_until("second")
        gateway.run("drain", "second")
        try:
            terminal.read_until("draining")
        finally:
            gateway.run("enable", "second")
        terminal.press("\x03")
        self.assertEqual(terminal.end(), 0)
        enter, leave = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
        self.assertTrue(terminal.output.startswith(enter + "\x1b[H"))
        self.assertNotIn("\x1b[2J", terminal.output, "a screen that is erased first flickers")
        self.assertTrue(terminal.output.endswith(leave), repr(terminal.output[-100:]))

    def test_a_dumb_terminal_is_not_steered(self):
        environment = gateway.environment | {"TERM": "dumb"}
        watch = Terminal(gateway.binary, "status", "--watch", env=environment)
        watch.read_until("second")
        watch.press("\x03")
        bench = Terminal(gateway.binary, "bench", "--requests", "4", env=environment)
        for terminal in [watch, bench]:
            self.assertEqual(terminal.end(), 0)
            self.assertNotIn("\x1b", terminal.output)

    def test_watch_in_a_pipe(self):
        for options, isWhole in [([], lambda line: line.startswith("second")), (["--json"], json.loads)]:
            client = subprocess.Popen(
                [gateway.binary, "status", "--watch", *options], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                env=gateway.environment)
            for _ in range(2):
                line = client.stdout.readline()
                while not isWhole(line):
                    self.assertNotIn("\x1b", line)
                    line = client.stdout.readline()
            client.send_signal(signal.SIGINT)
            client.stdout.close()
            self.assertEqual(client.wait(timeout=10), 0)

    def test_a_bar_shows_how_far_a_bench_is(self):
        terminal = Terminal(gateway.binary, "bench", "--requests", "40", "--json", env=gateway.environment)
        self.assertEqual(terminal.end(), 0)
        self.assertRegex(terminal.output, r"\r[█·]{30} \d+ %  \d+ requests?\x1b\[K")
        self.assertEqual(json.loads(terminal.output.rsplit("\r\x1b[K", 1)[1])["answered"], 40)


class Bench(unittest.TestCase):
    def bench(self, *arguments, **options):
        file = gateway.path("bench.json")
        for model in [gateway.first, gateway.second]:
            model.prompts.clear()
        out, _ = gateway.run("bench", "--output", file, *arguments, **options)
        return json.loads(file.read_text()), out

    def test_its_counts_are_the_upstreams(self):
        report, out = self.bench("--requests", "60", "--connections", "6", "--prompt", "p")
        self.assertEqual(gateway.first.prompts + gateway.second.prompts, ["p"] * 60)
        self.assertEqual([report[key] for key in ["requests", "answered", "failed", "tokens"]], [60, 60, 0, 120])
        self.assertEqual(report["errors"], {})
        for times in ["first_token_ms", "gap_ms", "request_ms"]:
            self.assertLessEqual(report[times]["p50"], report[times]["p95"])
            self.assertLessEqual(report[times]["p95"], report[times]["p99"])
        self.assertLessEqual(report["first_token_ms"]["p50"], report["request_ms"]["p50"])
        self.assertAlmostEqual(report["requests_per_second"] * report["elapsed_s"], 60, delta=3)
        self.assertTrue(out.startswith("60 requests over 6 connections in "))
        for row in ["first token", "between tokens", "whole request"]:
            self.assertRegex(out, rf"(?m)^{row} +[\d.]+ m?s +[\d.]+ m?s +[\d.]+ m?s$")

    def test_plain_replies(self):
        report, _ = self.bench("--requests", "10", "--no-stream")
        self.assertEqual((report["answered"], report["tokens"]), (10, 20))
        self.assertNotIn("first_token_ms", report)

    def test_errors_by_kind_end_it_with_1(self):
        report, out = self.bench("--requests", "5", "--prompt", "fail", code=1)
        self.assertEqual((report["answered"], report["failed"], report["errors"]), (0, 5, {"status_502": 5}))
        self.assertEqual(len(gateway.first.prompts), 5)
        self.assertRegex(out, r"\nERROR +REQUESTS\nstatus_502 +5\n")
        report, _ = self.bench("--requests", "1", "--prompt", "wait", "--timeout", "300ms", code=1)
        self.assertEqual(report["errors"], {"total_timer": 1})
        self.assertTrue(gateway.first.waiting.get(timeout=10).left.wait(10), "the upstream still generates")

    def test_where_nothing_was_answered_the_first_error_is_told(self):
        _, errors = gateway.run("bench", "--requests", "2", "--prompt", "fail", code=1)
        self.assertEqual(errors, "webllm-gateway: no model answered 2 requests; the first: No model could answer\n")
        report = gateway.json("bench", "--requests", "2", "--prompt", "fail", code=1)
        self.assertEqual(report["first_error"], "No model could answer")

    def test_a_duration_bounds_it(self):
        report, _ = self.bench("--duration", "500ms", "--connections", "2")
        self.assertGreaterEqual(report["elapsed_s"], 0.5)
        self.assertEqual(report["answered"], len(gateway.first.prompts))

    def test_ctrl_c_ends_it_with_what_it_has(self):
        file = gateway.path("interrupted.json")
        client = subprocess.Popen(
            [gateway.binary, "bench", "--prompt", "wait", "--connections", "2", "--output", file], stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL, env=gateway.environment)
        generations = [gateway.first.waiting.get(timeout=10) for _ in range(2)]
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=10)
        self.assertEqual(client.returncode, 130)
        for generation in generations:
            self.assertTrue(generation.left.wait(10), "the upstream still generates")
        report = json.loads(file.read_text())
        self.assertEqual((report["interrupted"], report["requests"]), (True, 0))

    def test_other_machines_are_refused(self):
        _, errors = gateway.run("bench", "--gateway", "192.0.2.1:8000", code=64)
        self.assertIn("--allow-remote", errors)
        gateway.run("bench", "--requests", "1", "--gateway", f"localhost:{gateway.port}")

    def test_a_file_that_cannot_be_written_is_told_first(self):
        gateway.first.prompts.clear()
        gateway.run("bench", "--output", gateway.path("missing") / "x", code=1)
        self.assertEqual(gateway.first.prompts, [])

    def test_a_file_is_kept_until_there_are_figures(self):
        old, new = gateway.path("old.json"), gateway.path("new.json")
        old.write_text("old" * 10_000)
        for file in [old, new]:
            gateway.run("bench", "--output", file, "--gateway", f"127.0.0.1:{gateway.closed}", code=69)
        self.assertEqual(old.read_text(), "old" * 10_000)
        self.assertFalse(new.exists())
        gateway.run("bench", "--requests", "1", "--output", old)
        self.assertEqual(json.loads(old.read_text())["answered"], 1)


def main():
    global gateway
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, type=pathlib.Path)
    arguments, rest = parser.parse_known_args()
    gateway = Setting(arguments.gateway.resolve())
    Scripts.binary = gateway.binary
    try:
        unittest.main(argv=["run.py", *rest])
    finally:
        gateway.close()


# A shell that runs this in the background has Ctrl-C ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

if __name__ == "__main__":
    main()
