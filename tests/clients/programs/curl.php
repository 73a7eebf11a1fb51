<?php
$curl = curl_init($argv[1]);
curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
echo curl_exec($curl) ?: curl_error($curl);
