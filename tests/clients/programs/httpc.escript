#!/usr/bin/env escript
main([Url]) ->
    {ok, _} = application:ensure_all_started(ssl),
    {ok, _} = application:ensure_all_started(inets),
    {ok, {_, _, Body}} = httpc:request(get, {Url, []}, [{ssl, [
        {verify, verify_peer}, {cacerts, public_key:cacerts_get()},
        {customize_hostname_check, [{match_fun, public_key:pkix_verify_hostname_match_fun(https)}]}
    ]}], []),
    io:put_chars(Body).
