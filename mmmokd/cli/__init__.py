# Copyright (c) mmmokd contributors. SPDX-License-Identifier: Apache-2.0
