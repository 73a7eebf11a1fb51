"""Other people's projects whose sdists carry their tests, and how each is run.

`needs` are the project's own test requirements, pinned where its own files pin them. `part` says
what is run, and why not the rest; nothing is left out because it fails with capture.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Project:
    """One suite.

    `extras` and `groups` (dependency groups) are the project's, `arguments` are for pytest,
    `servers` are names of servers.py, `limit` is what one run may take, in seconds.
    """

    name: str
    version: str
    kind: str
    extras: str = ""
    groups: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    conftest: str = ""
    part: str = "all"
    limit: int = 900


_ALL = (
    Project(
        "requests",
        "2.34.2",
        "HTTP client",
        groups=("test",),
    ),
    Project(
        "httpx",
        "0.28.1",
        "HTTP client, sync and async",
        extras="brotli,cli,http2,socks,zstd",
        needs=(
            "chardet==5.2.0",
            "click<8.2",
            "pytest==8.3.4",
            "trio==0.27.0",
            "trustme==1.2.0",
            "uvicorn==0.32.1",
        ),
    ),
    Project(
        "httpcore",
        "1.0.9",
        "async client",
        extras="asyncio,http2,socks,trio",
        needs=("pytest==8.3.4", "pytest-httpbin==2.0.0", "pytest-trio==0.8.0"),
    ),
    Project(
        "urllib3",
        "2.8.0",
        "HTTP client",
        extras="brotli,zstd",
        groups=("test",),
        needs=("cryptography", "pyopenssl", "trustme", "idna"),
    ),
    Project(
        "aiohttp",
        "3.14.5",
        "async client and server",
        extras="speedups",
        needs=(
            "blockbuster",
            "freezegun",
            "isal",
            "proxy.py>=2.4.4rc5",
            "pytest",
            "pytest-cov",
            "pytest-mock",
            "pytest-timeout",
            "pytest-xdist",
            "pytest_codspeed",
            "python-on-whales",
            "re-assert",
            "trustme",
            "uvloop",
            "zlib_ng",
        ),
        arguments=(
            "--no-cov",
            "--numprocesses=2",
            *(
                f"tests/test_{name}.py"
                for name in (
                    "client_functional",
                    "client_middleware",
                    "client_session",
                    "client_ws_functional",
                    "connector",
                    "imports",
                    "leaks",
                    "loop",
                    "proxy_functional",
                    "pytest_plugin",
                    "resolver",
                    "run_app",
                    "tcp_helpers",
                    "test_utils",
                    "web_functional",
                    "web_log",
                    "web_middleware",
                    "web_runner",
                    "web_sendfile_functional",
                    "web_server",
                    "web_websocket_functional",
                    "worker",
                )
            ),
        ),
        part="what opens connections or starts programs, in two xdist workers",
    ),
    Project(
        "tornado",
        "6.6.1",
        "async server and client",
        needs=("pycurl", "pycares<5", "twisted", "hypothesis", "pytest"),
        arguments=("-o", "python_files=*_test.py", "tornado/test"),
        variables={"ASYNC_TEST_TIMEOUT": "25"},
        conftest="import logging; logging.getLogger('tornado.access').setLevel('CRITICAL')",
    ),
    Project(
        "pytest_httpserver",
        "1.2.0",
        "server test tool",
        needs=("requests", "tomli"),
    ),
    Project(
        "responses",
        "0.26.3",
        "client patched by a test tool",
        extras="tests",
    ),
    Project(
        "websocket-client",
        "1.9.2",
        "WebSocket client",
        extras="test",
        needs=("pytest", "python-socks", "websockets", "wsaccel"),
        arguments=("websocket/tests",),
        servers=("websocket_echo",),
    ),
    Project(
        "geventhttpclient",
        "2.6.1",
        "gevent, everything patched",
        groups=("dev",),
        arguments=("-m", "not network"),
        part="all but what needs the Internet",
    ),
    Project(
        "redis",
        "8.1.0",
        "database driver, Redis on the host",
        needs=(
            "aiohttp",
            "numpy",
            "opentelemetry-api",
            "opentelemetry-sdk",
            "pybreaker",
            "pytest",
            "pytest-asyncio",
            "pytest-timeout",
            "redis-entraid==1.2.1",
            "ujson",
            "uvloop<=0.21.0",
            "xxhash",
        ),
        arguments=(
            "-m",
            "not redismod and not onlycluster and not ssl and not cp_integration",
            *(
                f"tests/test_{name}.py"
                for name in (
                    "background",
                    "cache",
                    "client",
                    "commands",
                    "connect",
                    "connection",
                    "connection_pool",
                    "credentials",
                    "encoding",
                    "lock",
                    "monitor",
                    "multiprocessing",
                    "pipeline",
                    "pubsub",
                    "retry",
                    "scripting",
                    "asyncio/test_commands",
                    "asyncio/test_connection",
                    "asyncio/test_connection_pool",
                    "asyncio/test_cwe_404",
                    "asyncio/test_lock",
                    "asyncio/test_pipeline",
                    "asyncio/test_retry",
                )
            ),
        ),
        servers=("redis",),
        part="what a single server serves, half of asyncio's",
    ),
    Project(
        "pg8000",
        "1.31.6",
        "database driver, PostgreSQL on the host",
        needs=("pytest", "pytest-mock", "pytest-benchmark", "pytz", "passlib"),
        arguments=("test",),
        servers=("postgres",),
    ),
    Project(
        "botocore",
        "1.44.5",
        "cloud SDK",
        needs=("jsonschema==4.23.0", "pytest==9.0.3", "pytest-xdist==3.5.0"),
        arguments=("tests/unit",),
        part="tests/unit",
    ),
    Project(
        "aiobotocore",
        "3.10.0",
        "cloud SDK, async",
        extras="httpx",
        groups=("test",),
        arguments=("--deselect=tests/test_lambda.py::test_run_lambda",),
        variables={"AWS_ACCESS_KEY_ID": "xxx", "AWS_SECRET_ACCESS_KEY": "xxx"},
        part="all but a test that needs Docker",
    ),
    Project(
        "pytest-splinter4",
        "0.4.0",
        "browser driver, Chromium",
        needs=("pytest-localserver==0.8.1", "selenium==4.8.3"),
        arguments=("--splinter-webdriver=chrome", "--splinter-headless", "tests"),
    ),
    Project(
        "zendriver",
        "0.17.1",
        "browser driver, Chromium",
        needs=("pytest", "pytest-asyncio>=1.4.0", "pytest-mock", "inflection", "psutil", "pyyaml"),
        arguments=("-m", "not external", "tests"),
        variables={"ZENDRIVER_TEST_BROWSERS": "headless"},
        part="all but what needs the Internet or a display",
    ),
    Project(
        "plumbum",
        "2.0.2",
        "many subprocesses, ssh",
        groups=("test",),
        needs=("pytest<9",),
        arguments=("--run-optional-tests=ssh",),
        servers=("sshd",),
    ),
    Project("sh", "2.4.0", "many subprocesses", needs=("pytest",)),
    Project(
        "pexpect",
        "4.9.0",
        "programs on terminals",
        needs=("pytest", "pytest-asyncio"),
        arguments=("tests",),
    ),
    Project(
        "pyftpdlib",
        "2.2.0",
        "FTP server and client",
        needs=(
            "psutil",
            "pyopenssl",
            "pytest",
            "pytest-instafail",
            "pytest-xdist",
            "setuptools",
            "pyasyncore;python_version>='3.12'",
            "pyasynchat;python_version>='3.12'",
        ),
    ),
    Project(
        "paramiko",
        "5.1.0",
        "SSH client and server",
        needs=("pytest", "icecream", "invoke", "pytest-relaxed>=2", "lexicon"),
    ),
)

PROJECTS = {project.name: project for project in _ALL}
